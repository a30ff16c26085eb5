"""The processes that train one model together."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from vecap_tasks.config.section import Section


class LaunchConfig(Section):
    """One process trains within the one that asks; several are started by torchrun. How many changes rounding alone."""

    processes: int = Field(1, ge=1, description="On each node; one a GPU.")
    nodes: int = Field(1, ge=1)
    rendezvous: str | None = Field(None, description="host:port of the first node, where there are several.")
    patience: float = Field(900, gt=0, description="Seconds to wait for the other nodes.")
    grace: int = Field(120, ge=1, description="Seconds that processes have to save and leave, once told to end.")

    @model_validator(mode="after")
    def _meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need a rendezvous, such as gpu1.example.org:29400")
        return self

    @property
    def alone(self) -> bool:
        """Whether one process does it all."""
        return self.processes == 1 and self.nodes == 1
