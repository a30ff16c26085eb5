"""The DAG `vecap_recaption`: recaptions published versions with another model or prompt, without downloading again."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import DAG, Param, chain, get_current_context, task
from vecap_airflow.job import INTERVAL_PATTERN, MORE_SETTINGS, PAGES, Job, config_param, groups_param, overrides_param
from vecap_airflow.links import store_version_link, version_link_task
from vecap_airflow.tasks import RETRIES, fail_permanently, publish_each, stage_group

log = logging.getLogger(__name__)

DOCS = f"""
**Recaptions published versions with another VLM, LLM or prompt.** Creates a revision of each published interval from
`from` to `to` with the changed configuration, reuses its crawl, verdicts and images, and runs `rewrite` and `assemble`.
The earliest version comes first, so that an image in several versions is captioned once. Existing versions do not
change. The new revisions (such as `2026-01-01-r2`) are published, and each triggers `vecap_clip`.

- **Result**: [all versions]({PAGES}/versions), and the button *Dataset version* on each task. The page of a sample
  compares its captions across revisions.
"""


def change(key: str, title: str, description: str) -> Param:
    """Return the parameter that overrides the setting *key*."""
    return Param(None, type=["null", "string"], title=title, description=f"{description} ({key}). Empty: no change.")


def bound(title: str, description: str) -> Param:
    """Return the parameter of one end of the interval range."""
    return Param(None, type=["null", "string"], pattern=INTERVAL_PATTERN, title=title, description=description)


CHANGES = {
    "vlm_model": "rewrite.vlm.model",
    "vlm_prompt": "rewrite.vlm.prompt",
    "llm_model": "rewrite.llm.model",
    "llm_prompt": "rewrite.llm.prompt",
}

with DAG(
    "vecap_recaption",
    description="Create revisions of published versions with new captions",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["vecap"],
    params={
        "from": bound("From", "First interval to recaption, such as 2026-01-01. Empty: the earliest."),
        "to": bound("To", "Last interval to recaption, such as 2026-01-07. Empty: the latest."),
        "vlm_model": change(
            CHANGES["vlm_model"], "Vision-language model", "Folder or name of the model that writes VeC"
        ),
        "vlm_prompt": change(CHANGES["vlm_prompt"], "Prompt of the vision-language model", "Name of the prompt"),
        "llm_model": change(CHANGES["llm_model"], "Language model", "Folder or name of the model that writes VeCap"),
        "llm_prompt": change(CHANGES["llm_prompt"], "Prompt of the language model", "Name of the prompt"),
        "overrides": overrides_param(),
        "config": config_param(MORE_SETTINGS),
        "groups": groups_param(8),
    },
) as dag:

    @version_link_task(**RETRIES)
    def open_revisions() -> dict[str, Any]:
        """Find or register a revision of each published interval in the range."""
        from vecap_tasks.core.open_version import check_stages, open_version
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import check_interval, list_versions, published, version_status
        from vecap_tasks.errors import ConfigError

        params = get_current_context()["params"]
        changes = [f"{key}={params[name]}" for name, key in CHANGES.items() if params[name]]
        with fail_permanently():
            job = Job.read(params["config"], [*(params["overrides"] or ()), *changes])
            config = job.load()
            store = Store(config.resolve(config.root))
            intervals = {v.interval for v in list_versions(store, config.dataset) if published(store, v) is not None}
            first, last = params["from"] or "", params["to"]
            for interval in filter(None, (first, last)):
                check_interval(interval)
            selected = sorted(name for name in intervals if name >= first and (not last or name <= last))
            if not selected:
                raise ConfigError(
                    f"no published versions from {first or 'the first'} to {last or 'the last'}; change the range"
                )
            for interval in selected:  # before a revision is registered
                check_stages(config, store, interval, ("rewrite", "assemble"))
            versions = [open_version(config, store, interval) for interval in selected]
            store_version_link([version.name for version in versions])
            for version in versions:
                log.info("%s", version_status(store, version))
            return job.with_versions(*(version.name for version in versions)).to_xcom()

    @task(**RETRIES)
    def adopt(job: dict[str, Any]) -> None:
        """Reuse crawl and verdicts of existing versions."""
        from vecap_tasks.core.stage import load_stage
        from vecap_tasks.core.store import Store
        from vecap_tasks.core.version import read_version
        from vecap_tasks.errors import ConfigError

        with fail_permanently():
            parsed = Job.from_xcom(job)
            config = parsed.load()
            store = Store(config.resolve(config.root))
            for name in parsed.versions:
                version = read_version(store, config.dataset, name)
                for stage_name in ("crawl", "quality"):
                    stage = load_stage(stage_name, config, version)
                    if stage.manifest() is None and stage.reuse_revision() is None:
                        raise ConfigError(
                            f"no version of {version.interval} has {stage_name} results for this configuration; "
                            "change only rewrite and assemble settings, or run vecap_dataset"
                        )

    opened = open_revisions()
    assembled = stage_group("assemble", opened)
    chain(
        adopt(opened),
        # Process versions sequentially, earliest first, so that later ones reuse captions of shared images. One group
        # uses all Dask workers.
        stage_group("rewrite", opened, pool="captioning", max_active=1),
        assembled,
        publish_each(opened, assembled),
    )
