"""A model's memory of what it has read: laid out once for a whole batch, so that no token copies those before it.

transformers' own cache joins keys and values anew for each token that is written. On a GPU, with a batch of prompts of
600 tokens, that moves more bytes than attention reads.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer, [rows, heads, tokens, width] each, in memory that holds *room* tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._held: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the newest tokens behind the others, and return views of all; more than *room* are joined as usual."""
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if after > self._room:
            self._held = None
            joined: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        if self._held is None:
            self.lazy_initialization(key_states, value_states)
            self._held = _empty(key_states, self._room), _empty(value_states, self._room)
        keys, values = self._held
        keys[..., before:after, :] = key_states
        values[..., before:after, :] = value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values


def _empty(like: torch.Tensor, tokens: int) -> torch.Tensor:
    return like.new_empty(*like.shape[:-2], tokens, like.shape[-1])


def roomy_cache(config: PreTrainedConfig, room: int) -> DynamicCache:
    """Return a cache for a decoder of *config* with memory for *room* tokens; sliding windows stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
