"""The FastAPI application of the pages. Each request requires permission to view the DAG `vecap_dataset`."""

from __future__ import annotations

import logging
import mimetypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, Form, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse

from vecap_airflow.job import DEFAULT_CONFIG
from vecap_airflow.pages.rendering import HEADERS, REPORT_HEADERS, page, query
from vecap_tasks.core.mlflow_tracking import Unavailable
from vecap_tasks.errors import CorruptError, VecapError, format_error

if TYPE_CHECKING:
    import pyarrow as pa

    from vecap_airflow.pages.link_targets import Recorded
    from vecap_airflow.pages.repository import Repository
    from vecap_tasks.core.samples import Filter

log = logging.getLogger(__name__)

DAG = "vecap_dataset"
VERSIONS_PER_PAGE = 30
SAMPLES_PER_PAGE = 24
SOURCES_PER_PAGE = 200

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
    """Yield the configured dataset. Raises CorruptError if the request reads a corrupt or missing file."""
    from vecap_airflow.pages.repository import UNREADABLE, describe_unreadable, open_repository

    try:
        yield open_repository(os.environ.get("VECAP_CONFIG") or DEFAULT_CONFIG)
    except UNREADABLE as error:
        log.warning("%s", format_error(error), exc_info=error)
        raise CorruptError(f"{describe_unreadable(error)}; run `vecap verify --all` to find all errors") from error


Opened = Annotated[Any, Depends(repository)]
User = Annotated[BaseUser, Depends(get_user)]


def may_change(user: BaseUser) -> bool:
    """Return whether *user* can trigger the DAG, which includes releasing rows."""
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=DAG), user=user
        )
    )


def check_same_origin(request: Request) -> None:
    """Reject cross-origin form posts (CSRF protection)."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "Cross-origin request rejected")


@app.exception_handler(VecapError)
def _error_page(request: Request, error: Exception) -> HTMLResponse:
    if isinstance(error, CorruptError):
        return _message(request, 503, "Cannot read the dataset", format_error(error))
    if isinstance(error, Unavailable):
        return _message(request, 503, "MLflow does not answer", format_error(error))
    return _message(request, 404, "Not found", format_error(error))


def _message(request: Request, status: int, heading: str, message: str) -> HTMLResponse:
    return page("message.html", status, heading=heading, message=message, root=root(request))


def root(request: Request) -> str:
    """Return the base path of the pages, including Airflow's own prefix."""
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
def versions(request: Request, opened: Opened, first: Annotated[int, Query(ge=0)] = 0) -> HTMLResponse:
    listed, total = opened.versions(first, VERSIONS_PER_PAGE)
    return page(
        "versions.html", root=root(request), dataset=opened.dataset, versions=listed, first=first, total=total,
        step=VERSIONS_PER_PAGE, charts=opened.trends(listed),
    )  # fmt: skip


@app.get("/versions/{name}")
def version(request: Request, opened: Opened, name: str) -> HTMLResponse:
    return page("version.html", root=root(request), dataset=opened.dataset, found=opened.version_details(name))


@app.get("/versions/{name}/recorded/{system}")
def recorded(request: Request, opened: Opened, name: str, system: Literal["mlflow", "models", "airflow"]) -> Response:
    """Redirect to the version's run in MLflow, the runs of the models trained on it, or the Airflow task."""
    return _redirect(request, opened.targets.run_url(name, system))


@app.get("/versions/{name}/models/{model}")
def recorded_model(request: Request, opened: Opened, name: str, model: str, train: str = "") -> Response:
    """Redirect to the MLflow page of the *model* (arm-seed); *train* is the digest of its training."""
    return _redirect(request, opened.targets.model_url(name, model, train))


@app.get("/champion")
def champion(request: Request, opened: Opened) -> Response:
    """Redirect to the lineage of the champion."""
    if not opened.targets.has_champion():
        return _message(
            request, 200, "No champion", f"MLflow has no model {opened.targets.champion}; evaluate a version first."
        )
    return RedirectResponse(f"{root(request)}/lineage{query(name=opened.targets.champion)}")


def _redirect(request: Request, found: Recorded) -> Response:
    return RedirectResponse(found.url) if found.url else _message(request, 200, "Not recorded", found.reason)


@app.get("/versions/{name}/report/{path:path}")
def report(opened: Opened, name: str, path: str) -> Response:
    data = opened.report(name, path)
    if data is None:
        raise HTTPException(404, "file not found in the report")
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return Response(data, media_type=media_type, headers=REPORT_HEADERS)


@app.get("/versions/{name}/sources")
def sources(request: Request, opened: Opened, name: str, first: Annotated[int, Query(ge=0)] = 0) -> HTMLResponse:
    found = opened.targets.sources(name, first, SOURCES_PER_PAGE)
    return page(
        "sources.html", root=root(request), dataset=opened.dataset, version=name, found=found, first=first,
        step=SOURCES_PER_PAGE,
    )  # fmt: skip


@app.get("/versions/{name}/samples")
def samples(
    request: Request,
    opened: Opened,
    name: str,
    first: Annotated[int, Query(ge=0)] = 0,
    reason: str = "",
    host: str = "",
    language: str = "",
    text: str = "",
) -> HTMLResponse:
    criteria = _criteria(reason, host, language, text)
    rows = opened.samples(name)
    return page(
        "samples.html", root=root(request), dataset=opened.dataset, version=name, samples=rows, criteria=criteria,
        shown=rows.page(criteria, first, SAMPLES_PER_PAGE), step=SAMPLES_PER_PAGE,
    )  # fmt: skip


@app.get("/versions/{name}/samples.{kind}")
def samples_file(
    opened: Opened,
    name: str,
    kind: Literal["csv", "parquet"],
    reason: str = "",
    host: str = "",
    language: str = "",
    text: str = "",
) -> Response:
    """Send the samples that match the filters as a file."""
    from vecap_tasks.core.samples import ROW_SCHEMA

    criteria = _criteria(reason, host, language, text)
    return _download(kind, opened.samples(name).batches(criteria), ROW_SCHEMA, opened.dataset, name, "samples")


def _criteria(reason: str, host: str, language: str, text: str) -> Filter:
    from vecap_tasks.core.samples import Filter

    return Filter(reason=reason, host=host.strip(), language=language, text=text.strip())


def _download(kind: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema, *name: str) -> StreamingResponse:
    """Return *batches* as a file of *kind*, whose name consists of the parts *name*."""
    from vecap_airflow.pages.downloads import MEDIA_TYPES, file_name, stream

    disposition = f'attachment; filename="{file_name(*name, suffix=kind)}"'
    headers = HEADERS | {"Content-Disposition": disposition}
    return StreamingResponse(stream(kind, batches, schema), media_type=MEDIA_TYPES[kind], headers=headers)


@app.get("/versions/{name}/images/{key}")
def image(opened: Opened, name: str, key: str) -> Response:
    data = opened.image(name, key)
    if data is None:
        raise HTTPException(404, "image not found")
    headers = HEADERS | {"Cache-Control": "private, max-age=3600"}
    return Response(data, media_type="image/jpeg", headers=headers)


@app.get("/quarantine")
def quarantine_start(request: Request, opened: Opened) -> HTMLResponse:
    summaries = opened.quarantines(VERSIONS_PER_PAGE)
    return page("quarantine_start.html", root=root(request), dataset=opened.dataset, versions=summaries)


@app.get("/versions/{name}/quarantine")
def quarantine(
    request: Request,
    opened: Opened,
    user: User,
    name: str,
    reason: str = "",
    first: Annotated[int, Query(ge=0)] = 0,
    released: str = "",
) -> HTMLResponse:
    from vecap_tasks.core.releases import active

    reasons, shown, entries = opened.quarantine(name, reason or None, first, SAMPLES_PER_PAGE)
    may_release = may_change(user)
    releasable = {count.reason for count in reasons if count.releasable}
    return page(
        "quarantine.html", root=root(request), dataset=opened.dataset, version=name, reason=reason, first=first,
        step=SAMPLES_PER_PAGE, reasons=reasons, shown=shown, entries=entries, may_release=may_release,
        preview=opened.preview(name, reason) if may_release and reason in releasable else None,
        released=active(entries).uids, message="Release recorded; run the interval again." if released else "",
    )  # fmt: skip


@app.get("/versions/{name}/quarantine.{kind}")
def quarantine_file(opened: Opened, name: str, kind: Literal["csv", "parquet"], reason: str = "") -> Response:
    """Send the rejected rows, or those with one reason, as a file."""
    from vecap_tasks.quality.quarantine import REJECTED_SCHEMA

    batches = opened.rejected(name, reason or None)
    return _download(kind, batches, REJECTED_SCHEMA, opened.dataset, name, "quarantine", reason)


@app.post("/versions/{name}/quarantine", dependencies=[Depends(check_same_origin), Depends(requires_change)])
def release(
    request: Request,
    opened: Opened,
    user: User,
    name: str,
    note: Annotated[str, Form(min_length=1, max_length=500)],
    uid: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
    anyway: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    """Record a release. With *anyway*, also one that adds no row."""
    uids = [uid] if uid else []
    opened.release(name, uids=uids, reason=reason or None, note=note, by=user.get_name(), force=anyway)
    return RedirectResponse(f"{root(request)}/versions/{quote(name)}/quarantine?released=1", 303)


@app.get("/lineage")
def lineage(request: Request, opened: Opened, name: str = "") -> HTMLResponse:
    from vecap_airflow.pages.graph import draw
    from vecap_tasks.lineage.tree import format_tree

    name = name.strip()
    if not name:
        listed, _ = opened.versions(0, VERSIONS_PER_PAGE)
        return page(
            "lineage_start.html",
            root=root(request),
            dataset=opened.dataset,
            versions=listed,
            champion=opened.targets.champion,
        )  # fmt: skip
    tree = opened.lineage(name)
    version, _, model = tree.name.partition("/")
    train = next((node.digest for node in tree.children if node.kind == "train"), None)
    mlflow_model = f"versions/{quote(version)}/models/{quote(model)}{query(train=train)}"
    return page(
        "lineage.html", root=root(request), dataset=opened.dataset, name=name, tree=tree, graph=draw(tree),
        text=format_tree(tree).rpartition("\n")[0],  # the last line summarizes the verification
        links=opened.targets.node_links(tree), version=version,
        models=[] if model else opened.targets.trained_models(version),
        mlflow_model=mlflow_model if train and opened.targets.has_mlflow_ui() else "",
    )  # fmt: skip


@app.get("/compare/{uid}")
def compare(request: Request, opened: Opened, uid: str) -> HTMLResponse:
    return page("compare.html", root=root(request), dataset=opened.dataset, uid=uid, rows=opened.revisions(uid))
