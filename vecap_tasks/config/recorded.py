"""Configurations recorded by earlier releases, converted to the current setting names."""

from __future__ import annotations

from typing import Any

# Renamed in 0.2.0.
_NAMES = {
    "assemble.licence": "license",
    "crawl.retry_failed.of": "version",
    "mlflow.pages": "ui_url",
    "mlflow.watch": "live_interval",
    "quality.rows.refuse_earlier_duplicates": "reject_earlier_duplicates",
    "quality.rows.refuse_flat": "reject_flat",
    "quality.rows.refuse_near_duplicates": "reject_near_duplicates",
    "rewrite.llm.server.slow": "latency_threshold",
    "rewrite.llm.server.tries": "max_attempts",
    "rewrite.llm.variants": "num_captions",
    "rewrite.max_refused": "max_rejected",
    "rewrite.screen.off": "disabled_rules",
    "rewrite.vlm.server.slow": "latency_threshold",
    "rewrite.vlm.server.tries": "max_attempts",
    "rewrite.vlm.variants": "num_captions",
    "train.launch.grace": "shutdown_timeout",
    "train.launch.patience": "rendezvous_timeout",
    "train.model.start": "init_from",
    "train.reading.lanes": "num_readers",
    "train.reading.window": "shuffle_buffer",
    "train.recompute": "activation_checkpointing",
}
_VALUES = {("evaluate.ties", "against"): "pessimistic", ("train.model.preprocess", "usual"): "default"}

_DISABLED_RULES = ("rewrite.screen.off", "rewrite.screen.disabled_rules")


def with_current_names(section: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return a recorded configuration, or its part at *path*, with current setting names and values.

    `device: auto` and `precision: auto` of 0.1.0 are dropped, because the stages no longer accept `auto`; so is
    `private_data` in the disabled screening rules, because that rule always applies. The probability of AltText in the
    arm `mixed` becomes its texts; in sources of a mixture it is dropped, because the mixture's record has it.
    """
    result: dict[str, Any] = {}
    for name, value in section.items():
        full = f"{path}.{name}" if path else name
        if name in ("device", "precision") and value == "auto":
            continue
        if isinstance(value, dict):
            value = with_current_names(value, full)
        elif isinstance(value, str):
            value = _VALUES.get((full, value), value)
        elif full == "train.mixed_p":
            name, value = "texts", {"mixed": {"alttext": value, "vecap": 1 - value}}
        elif full == "train.mixture.sources":
            value = [{key: item for key, item in source.items() if key != "mixed_p"} for source in value]
        elif full in _DISABLED_RULES and isinstance(value, list | tuple):
            value = [rule for rule in value if rule != "private_data"]
        result[_NAMES.get(full, name)] = value
    return result
