"""The pages in this process, for a user who may see and change everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from fastapi import FastAPI


def open_pages(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """Return an application with the pages at `/vecap`. `plugins/` is in the path, as in `tests/plugins`."""
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import FastAPI
    from vecap_airflow.pages import app as pages

    create_auth_manager()
    user = SimpleAuthManagerUser(username="admin", role="admin")
    overrides = {get_user: lambda: user, pages.requires_view: lambda: None, pages.requires_change: lambda: None}
    for dependency, override in overrides.items():
        monkeypatch.setitem(pages.app.dependency_overrides, dependency, override)
    airflow = FastAPI()
    airflow.mount("/vecap", pages.app)
    return airflow
