"""Lineage: what was made from what, written to MLflow and walked back, with every digest checked on the way."""

from vecap_tasks.lineage.champion import decide_champion, move_champion
from vecap_tasks.lineage.models import record_clip
from vecap_tasks.lineage.versions import keep_gate, record_gate, record_version

__all__ = ["decide_champion", "keep_gate", "move_champion", "record_clip", "record_gate", "record_version"]
