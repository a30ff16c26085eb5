"""The FastAPI application of the pages. Each request needs a user of Airflow who may see the DAG `vecap_dataset`."""

from __future__ import annotations

import logging
import mimetypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlencode, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, Form, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from vecap_airflow.job import DEFAULT_CONFIG
from vecap_airflow.pages.rendering import HEADERS, REPORT_HEADERS, page
from vecap_tasks.errors import CorruptError, VecapError, format_error

if TYPE_CHECKING:
    from vecap_airflow.pages.repository import Repository
    from vecap_tasks.lineage.tree import Node

log = logging.getLogger(__name__)

DAG = "vecap_dataset"
VERSIONS_A_PAGE = 30
SAMPLES_A_PAGE = 24
_TRAINED = re.compile(r"[^/]+/[a-z_]+-\d+")

requires_view = requires_access_dag("GET", param_dag_id=DAG)
requires_change = requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=DAG)

app = FastAPI(
    title="VeCap",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(get_user), Depends(requires_view)],
)


def repository() -> Iterator[Repository]:
    """Give the dataset that the installation's configuration names. A file that cannot be read is a CorruptError."""
    from vecap_airflow.pages.repository import UNREADABLE, describe_unreadable, open_repository

    try:
        yield open_repository(os.environ.get("VECAP_CONFIG") or DEFAULT_CONFIG)
    except UNREADABLE as error:
        log.warning("%s", format_error(error), exc_info=error)
        raise CorruptError(f"{describe_unreadable(error)}; run `vecap verify --all` to find all damage") from error


Open = Annotated[Any, Depends(repository)]
User = Annotated[BaseUser, Depends(get_user)]


def may_change(user: BaseUser) -> bool:
    """Say whether *user* may start runs of the DAG, and so may release rows for the next one."""
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=DAG), user=user
        )
    )


def check_same_origin(request: Request) -> None:
    """Refuse a form that a page of another site sends with the user's cookie."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "the form is not ours")


@app.exception_handler(VecapError)
def _told(request: Request, error: Exception) -> HTMLResponse:
    if isinstance(error, CorruptError):
        return _message(request, 503, "Cannot read the dataset", format_error(error))
    return _message(request, 404, "Not found", format_error(error))


def _message(request: Request, status: int, heading: str, message: str) -> HTMLResponse:
    return page("message.html", status, heading=heading, message=message, root=root(request))


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
    return page("version.html", root=root(request), dataset=opened.dataset, found=opened.version_details(name))


@app.get("/versions/{name}/recorded/{where}")
def recorded(request: Request, opened: Open, name: str, where: Literal["mlflow", "airflow"]) -> Response:
    found = opened.recorded(name, where)
    if found is None:
        return _message(request, 200, "No Airflow run", f"No task of Airflow recorded version {name}.")
    return RedirectResponse(found)


@app.get("/versions/{name}/report/{path:path}")
def report(opened: Open, name: str, path: str) -> Response:
    data = opened.report(name, path)
    if data is None:
        raise HTTPException(404, "the report has no such file")
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return Response(data, media_type=kind, headers=REPORT_HEADERS)


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
    from vecap_tasks.core.samples import Filter

    wanted = Filter(reason=reason, host=host.strip(), language=language, text=text.strip())
    rows = opened.samples(name)
    return page(
        "samples.html", root=root(request), dataset=opened.dataset, version=name, samples=rows, wanted=wanted,
        shown=rows.page(wanted, first, SAMPLES_A_PAGE), step=SAMPLES_A_PAGE,
    )  # fmt: skip


@app.get("/versions/{name}/pictures/{key}")
def image(opened: Open, name: str, key: str) -> Response:
    data = opened.image(name, key)
    if data is None:
        raise HTTPException(404, "no such picture")
    headers = HEADERS | {"Cache-Control": "private, max-age=3600"}
    return Response(data, media_type="image/jpeg", headers=headers)


@app.get("/quarantine")
def quarantine_start(request: Request, opened: Open) -> HTMLResponse:
    found = opened.quarantines(VERSIONS_A_PAGE)
    return page("quarantine_start.html", root=root(request), dataset=opened.dataset, versions=found)


@app.get("/versions/{name}/quarantine")
def quarantine(
    request: Request,
    opened: Open,
    user: User,
    name: str,
    reason: str = "",
    first: Annotated[int, Query(ge=0)] = 0,
    told: str = "",
) -> HTMLResponse:
    reasons, shown, entries = opened.quarantine(name, reason or None, first, SAMPLES_A_PAGE)
    return page(
        "quarantine.html", root=root(request), dataset=opened.dataset, version=name, reason=reason, first=first,
        step=SAMPLES_A_PAGE, reasons=reasons, shown=shown, entries=entries, may_release=may_change(user),
        told="It is written down. Run the interval again for a revision with it." if told else "",
    )  # fmt: skip


@app.post("/versions/{name}/quarantine", dependencies=[Depends(check_same_origin), Depends(requires_change)])
def release(
    request: Request,
    opened: Open,
    user: User,
    name: str,
    note: Annotated[str, Form(min_length=1, max_length=500)],
    uid: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
) -> RedirectResponse:
    opened.release(name, uids=[uid] if uid else [], reason=reason or None, note=note, by=user.get_name())
    return RedirectResponse(f"{root(request)}/versions/{quote(name)}/quarantine?told=1", 303)


@app.get("/lineage")
def lineage(request: Request, opened: Open, name: str = "", check: bool = False) -> HTMLResponse:
    from vecap_airflow.pages.graph import draw
    from vecap_tasks.lineage.tree import format_tree

    name = name.strip()
    if not name:
        found, _ = opened.versions(0, VERSIONS_A_PAGE)
        return page("lineage_start.html", root=root(request), dataset=opened.dataset, versions=found)
    tree = opened.lineage(name, check)
    return page(
        "lineage.html", root=root(request), dataset=opened.dataset, name=name, check=check, tree=tree,
        graph=draw(tree), text=_text(format_tree(tree), check), links=link_of,
    )  # fmt: skip


def _text(tree: str, check: bool) -> str:
    """Return *tree* without its last line, which counts the files that were checked, where none was."""
    return tree if check else tree.rpartition("\n")[0]


def link_of(node: Node) -> str:
    """Return the page of what *node* is, below the root; "" where it has none."""
    if node.kind == "version":
        return f"versions/{quote(node.name.rpartition('/')[2])}"
    trained = node.kind == "model" and _TRAINED.fullmatch(node.name)  # the models that caption are folders
    return f"lineage?{urlencode({'name': node.name})}" if trained else ""


@app.get("/compare/{uid}")
def compare(request: Request, opened: Open, uid: str) -> HTMLResponse:
    return page("compare.html", root=root(request), dataset=opened.dataset, uid=uid, rows=opened.revisions(uid))
