"""The kinds of inputs: how each is made, the tokens of its grammar, and the reader that it is fed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from benchmarks import fuzz_archives as archives
from benchmarks import fuzz_lists as lists
from benchmarks import fuzz_readers as readers
from benchmarks import fuzz_readers_text as text_readers
from benchmarks import fuzz_text as text
from benchmarks.fuzz_bytes import MAX_BYTES, mutate
from benchmarks.fuzz_images import IMAGE_TOKENS, image
from benchmarks.fuzz_outcome import Outcome


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input. `make` returns a seed, `read` feeds an input to the readers.

    `mutated` is the share of seeds that are mutated as bytes: low for files that any changed bit makes unreadable.
    """

    make: Callable[[Random], bytes]
    tokens: Sequence[bytes]
    read: Callable[[bytes], Outcome]
    mutated: float = 0.9

    def input(self, seed: str) -> bytes:
        """Return the input of *seed*; equal seeds give equal inputs."""
        random = Random(seed)
        data = self.make(random)
        return mutate(random, data, self.tokens, self.make) if random.random() < self.mutated else data[:MAX_BYTES]


KINDS = {
    "html": Kind(text.html, text.HTML_TOKENS, readers.html),
    "attributes": Kind(text.image_attributes, text.SRCSET_TOKENS, readers.image_attributes),
    "url": Kind(text.urls, text.URL_TOKENS, readers.url),
    "http": Kind(text.response, text.HEADER_TOKENS, readers.http),
    "robots": Kind(text.robots, text.ROBOTS_TOKENS, readers.robots),
    "sitemap": Kind(text.sitemap, text.SITEMAP_TOKENS, readers.sitemap),
    "warc": Kind(archives.warc, archives.WARC_TOKENS, readers.warc, 0.2),
    "wat": Kind(archives.wat, (*archives.WARC_TOKENS, *text.JSON_TOKENS), readers.wat, 0.2),
    "csv": Kind(partial(lists.table_list, comma=","), lists.LIST_TOKENS, readers.csv),
    "tsv": Kind(partial(lists.table_list, comma="\t"), lists.LIST_TOKENS, readers.tsv),
    "json": Kind(lists.json_list, text.JSON_TOKENS, readers.json_list),
    "jsonl": Kind(lists.json_lines, text.JSON_TOKENS, readers.json_lines),
    "txt": Kind(lists.text_list, text.URL_TOKENS, readers.text_list),
    "parquet": Kind(lists.parquet, (), readers.parquet, 0.4),
    "tar": Kind(archives.tar, archives.TAR_TOKENS, readers.tar, 0.4),
    "image": Kind(image, IMAGE_TOKENS, readers.image, 0.4),
    "evaluation": Kind(lists.evaluation, lists.EVALUATION_TOKENS, text_readers.evaluation),
    "answer": Kind(text.answer, text.JSON_TOKENS, text_readers.answer, 0.4),
    "prompt": Kind(text.texts, text.CAPTION_TOKENS, text_readers.prompt),
    "screening": Kind(text.texts, text.CAPTION_TOKENS, text_readers.screening),
}
