"""Where the links of the pages lead: to MLflow, Airflow, source files and models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input, read_manifest
from vecap_tasks.core.mlflow_tracking import NoDatabase, open_tracking
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import list_versions, published, read_version
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.lineage.champion import champion_name
from vecap_tasks.lineage.mlflow_lookup import find_model, registered_model_exists
from vecap_tasks.lineage.mlflow_notes import model_page, page_url, run_page, training_runs_page
from vecap_tasks.lineage.tree import Node
from vecap_tasks.lineage.walk import trained_models
from vecap_tasks.redaction import redact

_DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGE_PAGES = {"crawl": "sources", "quality": "quarantine", "rewrite": "samples", "assemble": ""}


@dataclass(frozen=True, slots=True)
class Recorded:
    """The page of something that MLflow or Airflow recorded; without a `url`, the `reason` why there is none."""

    url: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a crawl read: its `name` in the configuration, its `location`, and the sha256 of its bytes."""

    name: str
    location: str
    bytes: int | None
    digest: str


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Some of the `total` source files of a crawl, the `bytes` of all, and what was made from them.

    `earlier` are versions whose crawls this crawl used, and whether they still exist; `versions` are those that share
    this crawl, with the names of their models.
    """

    files: tuple[SourceFile, ...]
    total: int
    bytes: int
    earlier: tuple[tuple[str, bool], ...]
    versions: tuple[tuple[str, list[str]], ...]


class LinkTargets:
    """The targets of links of one dataset."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.dataset = config.dataset
        self._store = store

    def has_mlflow_ui(self) -> bool:
        """Return whether an MLflow UI is configured."""
        try:
            return page_url(self.config, "") is not None
        except VecapError:  # for example, an environment variable that this process lacks
            return False

    def run_url(self, name: str, system: str) -> Recorded:
        """Return the page of the version's MLflow run (*system* is "mlflow"), of the runs of the models trained on it
        ("models"), or of the Airflow task that published it ("airflow").

        Raises VecapError if the version is not published, or if there is no MLflow UI.
        """
        version = read_version(self._store, self.dataset, name)
        manifest = published(self._store, version)
        if manifest is None:
            raise VecapError(f"version {name} is not published, so it has no MLflow run")
        try:
            with open_tracking(self.config, create=False) as tracking:
                run, uri = tracking.find_version(self.dataset, name, manifest.digest), tracking.uri
                models = tracking.client.get_experiment_by_name(f"vecap/{self.dataset}/clip")
        except NoDatabase as error:
            return Recorded(None, format_error(error))
        if system == "models":
            if models is None:
                return Recorded(None, f"MLflow at {uri} has no models of dataset {self.dataset} yet.")
            return Recorded(self._mlflow_url(training_runs_page(models.experiment_id, f"{self.dataset}/{name}")))
        if run is None:
            return Recorded(
                None,
                f"MLflow at {uri} has no run of version {name}: it was recorded elsewhere, or not yet; "
                "to record it, clear its task publish in Airflow, or run `vecap run` with this mlflow.tracking_uri",
            )
        if system == "airflow":
            reason = f"Version {name} was not published by an Airflow task."
            return Recorded(run.data.tags.get("airflow.url"), reason)
        return Recorded(self._mlflow_url(run_page(run.info.experiment_id, run.info.run_id)))

    def model_url(self, name: str, model: str, train: str) -> Recorded:
        """Return the MLflow page of the *model* (arm-seed) of a version; *train* is the digest of its training.

        Raises VecapError for an unknown version or model, or if there is no MLflow UI.
        """
        version = read_version(self._store, self.dataset, name)
        if not _DIGEST.fullmatch(train):
            raise VecapError(f"{train!r} is not the digest of a training; open the model from its lineage page")
        with open_tracking(self.config, create=False) as tracking:
            found = find_model(tracking, version, model, train)
            if found is None:
                return Recorded(None, f"MLflow at {tracking.uri} has no model {model} of version {name}.")
        return Recorded(self._mlflow_url(model_page(found.experiment_id, found.model_id)))

    @property
    def champion(self) -> str:
        """The name of the champion in MLflow."""
        return champion_name(self.dataset)

    def has_champion(self) -> bool:
        """Return whether MLflow has a champion of the dataset."""
        try:
            with open_tracking(self.config, create=False) as tracking:
                return registered_model_exists(tracking, self.champion)
        except NoDatabase:
            return False

    def _mlflow_url(self, path: str) -> str:
        url = page_url(self.config, path)
        if url is None:
            raise VecapError("no MLflow UI is configured (set mlflow.ui_url)")
        return url

    def sources(self, name: str, first: int, count: int) -> SourceFiles:
        """Return *count* source files of a version's crawl from index *first*, and what was made from all of them.

        Raises VecapError for an unknown version or one without a crawl.
        """
        version = read_version(self._store, self.dataset, name)
        crawl = read_manifest(self._store, f"{version.folder}/crawl")
        if crawl is None:
            raise VecapError(
                f"version {name} has no finished crawl yet; its source files are recorded at the end of it"
            )
        files = [item for item in crawl.inputs if item.kind == "source"]
        earlier = [item.name.removesuffix("/crawl") for item in crawl.inputs if item.kind in ("version", "dataset")]
        existing = list_versions(self._store, self.dataset)
        names = {other.name for other in existing}
        versions = [
            (other.name, trained_models(self._store, other))
            for other in existing
            if other.interval == version.interval
            and (manifest := read_manifest(self._store, f"{other.folder}/crawl")) is not None
            and manifest.digest == crawl.digest
        ]
        return SourceFiles(
            tuple(self._source_file(item) for item in files[first : first + count]),
            len(files),
            sum(item.bytes or 0 for item in files),
            tuple((other, other in names) for other in dict.fromkeys(earlier)),
            tuple(versions),
        )

    def _source_file(self, item: Input) -> SourceFile:
        try:
            location = redact(self.config.resolve(item.name))
        except VecapError:  # for example, an environment variable that this process lacks
            location = item.name
        return SourceFile(item.name, location, item.bytes, item.digest)

    def trained_models(self, name: str) -> list[str]:
        """Return the names of the models trained on a version; empty for a version of another dataset."""
        known = {version.name: version for version in list_versions(self._store, self.dataset)}
        return trained_models(self._store, known[name]) if name in known else []

    def node_links(self, tree: Node) -> Callable[[Node], str]:
        """Return a function that returns the page of a node of *tree*, relative to the root, or "" if it has none."""
        known = {version.name for version in list_versions(self._store, self.dataset)}
        links: dict[int, str] = {}

        def add(node: Node, sources: str) -> None:
            dataset, _, rest = node.name.partition("/")
            name, _, stage = rest.partition("/")
            if node.kind == "version" and node.name in known and node is not tree:
                links[id(node)] = f"versions/{quote(node.name)}"
            elif node.kind == "source" and sources:
                links[id(node)] = f"{sources}#{node.digest}"
            elif dataset == self.dataset and name in known and stage in _STAGE_PAGES and node.digest:
                links[id(node)] = "/".join(filter(None, ("versions", quote(name), _STAGE_PAGES[stage])))
            for child in node.children:
                add(child, links.get(id(node), "") if node.kind == "crawl" else "")

        add(tree, "")
        return lambda node: links.get(id(node), "")
