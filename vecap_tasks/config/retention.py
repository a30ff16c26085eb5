"""What `vecap gc` leaves alone."""

from __future__ import annotations

from pydantic import Field

from vecap_tasks.config.section import Section


class RetentionConfig(Section):
    """How much of what was superseded or never finished is kept; nothing here changes what is made."""

    keep_last: int = Field(2, ge=1, description="Newest published revisions of an interval that stay.")
    keep_days: float = Field(
        30, ge=0, description="Days for which the others stay after a newer one was published, and unfinished work."
    )
