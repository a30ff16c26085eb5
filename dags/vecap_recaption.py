"""The DAG `vecap_recaption`: rewrites published versions with another model or prompt, downloading nothing again."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Param, chain, get_current_context, task
from vecap_airflow.job import INTERVAL_PATTERN, Job, config_param, groups_param, overrides_param
from vecap_airflow.tasks import RETRIES, fail_permanently, publish_each, stage_group

log = logging.getLogger(__name__)

DOCS = """
**Another VLM, LLM or prompt for versions that are there.** Opens a revision of every published interval from `from`
to `to` under the changed configuration, takes over its crawl and its verdicts as they are, and runs `rewrite` and
`assemble`, the earliest version first: an image that several versions have is captioned once. The old versions stay;
the new ones (`2026-01-01-r2`) are published, and `vecap_clip` starts for each.
"""


def change(key: str, title: str, description: str) -> Param:
    """Return the parameter of one setting that a run may change."""
    return Param(None, type=["null", "string"], title=title, description=f"{description} (`{key}`)", section="Changes")


def bound(title: str, description: str) -> Param:
    """Return the parameter of one end of the range of intervals."""
    return Param(None, type=["null", "string"], pattern=INTERVAL_PATTERN, title=title, description=description)


CHANGES = {
    "vlm_model": "rewrite.vlm.model",
    "vlm_prompt": "rewrite.vlm.prompt",
    "llm_model": "rewrite.llm.model",
    "llm_prompt": "rewrite.llm.prompt",
}

with DAG(
    "vecap_recaption",
    description="Published versions in, revisions with other captions out",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["vecap"],
    params={
        "from": bound("From", "First interval; empty: the earliest."),
        "to": bound("To", "Last interval, included; empty: the last."),
        "vlm_model": change(CHANGES["vlm_model"], "VLM", "Folder of the vision-language model"),
        "vlm_prompt": change(CHANGES["vlm_prompt"], "VLM prompt", "Name of a prompt"),
        "llm_model": change(CHANGES["llm_model"], "LLM", "Folder of the language model"),
        "llm_prompt": change(CHANGES["llm_prompt"], "LLM prompt", "Name of a prompt"),
        "config": config_param(),
        "overrides": overrides_param(),
        "groups": groups_param(8),
    },
) as dag:

    @task(**RETRIES)
    def open_revisions() -> dict[str, Any]:
        """Register a revision of each published interval in the range, or find it."""
        from vecap_tasks.core.open_version import open_version
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import check_interval, list_versions, published, version_status
        from vecap_tasks.errors import ConfigError

        params = get_current_context()["params"]
        changes = [f"{key}={params[name]}" for name, key in CHANGES.items() if params[name]]
        with fail_permanently():
            job = Job.read(params["config"], [*params["overrides"], *changes])
            config = job.load()
            store = Store(config.resolve(config.root))
            intervals = {v.interval for v in list_versions(store, config.dataset) if published(store, v) is not None}
            first, last = params["from"] or "", params["to"]
            for given in filter(None, (first, last)):
                check_interval(given)
            chosen = sorted(name for name in intervals if name >= first and (not last or name <= last))
            if not chosen:
                raise ConfigError(f"no published version lies between {first or 'the first'} and {last or 'the last'}")
            versions = [open_version(config, store, interval) for interval in chosen]
            for version in versions:
                log.info("%s", version_status(store, version))
            return job.with_versions(*(version.name for version in versions)).to_xcom()

    @task(**RETRIES)
    def adopt(job: dict[str, Any]) -> None:
        """Take over crawl and verdicts from the versions that are there; nothing is fetched again."""
        from vecap_tasks.core.stage import load_stage
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import read_version
        from vecap_tasks.errors import ConfigError

        with fail_permanently():
            wanted = Job.from_xcom(job)
            config = wanted.load()
            store = Store(config.resolve(config.root))
            for name in wanted.versions:
                version = read_version(store, config.dataset, name)
                for part in ("crawl", "quality"):
                    stage = load_stage(part, config, version)
                    if stage.manifest() is None and stage.reuse_revision() is None:
                        raise ConfigError(
                            f"no version of {version.interval} has the {part} of this configuration; "
                            "change only rewrite and assemble, or run vecap_dataset"
                        )

    opened = open_revisions()
    assembled = stage_group("assemble", opened)
    chain(
        adopt(opened),
        # One after the other, the earliest version first: a later one finds the captions of images that both have.
        # The Dask workers are all at work on the one group.
        stage_group("rewrite", opened, pool="captioning", at_once=1),
        assembled,
        publish_each(opened, assembled),
    )
