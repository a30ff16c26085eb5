"""Lineage: records versions and models in MLflow, and traces them to their sources while verifying digests."""

from vecap_tasks.lineage.champion import decide_champion, move_champion
from vecap_tasks.lineage.models import record_clip
from vecap_tasks.lineage.versions import record_gate, record_version, try_record_gate

__all__ = ["decide_champion", "move_champion", "record_clip", "record_gate", "record_version", "try_record_gate"]
