"""Which rows share a training shard: crawl shards are taken in groups, and the rows of a group are mixed.

A group is what one worker does: it reads each of its crawl shards once, from start to end, keeps the images on disk,
and writes its training shards in another order. That mixes pages and sites without a random read over all tars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MIXED = 4  # training shards that a group's rows are at least mixed over, where the crawl has that many


@dataclass(frozen=True, slots=True)
class Source:
    """A crawl shard: where the store has its table and its tar, and how many of its rows become samples."""

    table: str
    tar: str
    samples: int


@dataclass(frozen=True, slots=True)
class Group:
    """Crawl shards whose samples are mixed, and the training shards made of them: `sizes[0]` is for shard `first`."""

    name: str
    sources: tuple[Source, ...]
    first: int
    sizes: tuple[int, ...]


def plan_groups(sources: Iterable[Source], shard_size: int) -> list[Group]:
    """Group *sources* in their order. A group's training shards are of one size, give or take one sample."""
    groups: list[Group] = []
    first = 0
    for members in _gather(sources, MIXED * shard_size):
        samples = sum(source.samples for source in members)
        shards = -(-samples // shard_size)
        size, larger = divmod(samples, shards)
        sizes = tuple(size + 1 if number < larger else size for number in range(shards))
        groups.append(Group(f"{len(groups):05d}", members, first, sizes))
        first += shards
    return groups


def _gather(sources: Iterable[Source], enough: int) -> list[tuple[Source, ...]]:
    gathered: list[tuple[Source, ...]] = []
    members: list[Source] = []
    for source in sources:
        if source.samples == 0:
            continue
        members.append(source)
        if sum(member.samples for member in members) >= enough:
            gathered.append(tuple(members))
            members = []
    return [*gathered, tuple(members)] if members else gathered
