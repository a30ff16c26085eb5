"""The FastAPI application of the pages. Each request needs a user of Airflow who may see the DAG `vecap_dataset`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from vecap_airflow.job import DEFAULT_CONFIG
from vecap_airflow.pages.page import HEADERS, page
from vecap_tasks.errors import VecapError, one_line

if TYPE_CHECKING:
    from vecap_airflow.pages.shelf import Shelf

DAG = "vecap_dataset"
VERSIONS_A_PAGE = 30
SAMPLES_A_PAGE = 24

app = FastAPI(
    title="VeCap",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(get_user), Depends(requires_access_dag("GET", param_dag_id=DAG))],
)


def shelf() -> Shelf:
    """Return the dataset that the installation's configuration names."""
    from vecap_airflow.pages.shelf import open_shelf

    return open_shelf(os.environ.get("VECAP_CONFIG") or DEFAULT_CONFIG)


Open = Annotated[Any, Depends(shelf)]


@app.exception_handler(VecapError)
def _told(request: Request, error: Exception) -> HTMLResponse:
    return page("error.html", 404, message=one_line(error), root=root(request))


def root(request: Request) -> str:
    """Return the path that the pages lie at, whatever prefix Airflow is served under."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@app.get("/style.css")
def style() -> FileResponse:
    return FileResponse(
        Path(__file__).parent / "style.css", media_type="text/css", headers={"Cache-Control": "max-age=300"}
    )


@app.get("/")
def index(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{root(request)}/versions")


@app.get("/versions")
def versions(request: Request, opened: Open, first: Annotated[int, Query(ge=0)] = 0) -> HTMLResponse:
    found, total = opened.versions(first, VERSIONS_A_PAGE)
    return page(
        "versions.html", root=root(request), dataset=opened.dataset, versions=found, first=first, total=total,
        step=VERSIONS_A_PAGE,
    )  # fmt: skip


@app.get("/versions/{name}")
def version(request: Request, opened: Open, name: str) -> HTMLResponse:
    return page("version.html", root=root(request), dataset=opened.dataset, found=opened.story(name))


@app.get("/versions/{name}/samples")
def samples(
    request: Request,
    opened: Open,
    name: str,
    first: Annotated[int, Query(ge=0)] = 0,
    reason: str = "",
    host: str = "",
    language: str = "",
    text: str = "",
) -> HTMLResponse:
    from vecap_tasks.browse.rows import Filter

    wanted = Filter(reason=reason, host=host.strip(), language=language, text=text.strip())
    rows = opened.samples(name)
    return page(
        "samples.html", root=root(request), dataset=opened.dataset, version=name, samples=rows, wanted=wanted,
        shown=rows.page(wanted, first, SAMPLES_A_PAGE), step=SAMPLES_A_PAGE,
    )  # fmt: skip


@app.get("/versions/{name}/pictures/{key}")
def picture(opened: Open, name: str, key: str) -> Response:
    data = opened.picture(name, key)
    if data is None:
        raise HTTPException(404, "no such picture")
    headers = HEADERS | {"Cache-Control": "private, max-age=3600"}
    return Response(data, media_type="image/jpeg", headers=headers)


@app.get("/compare/{uid}")
def compare(request: Request, opened: Open, uid: str) -> HTMLResponse:
    return page("compare.html", root=root(request), dataset=opened.dataset, uid=uid, rows=opened.revisions(uid))
