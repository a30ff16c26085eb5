"""Every table that stages hand to each other, as Arrow schemas: the one place where columns are declared.

Names follow img2dataset and DataComp where those have one (`url, caption, key, status, error_message, width,
height, original_width, original_height, exif, sha256, uid`), so that their users' tools read these files.
"""

import pyarrow as pa

# What a crawl's sources name, before anything is fetched: one row per (image, AltText) pair, one per `uid`.
CANDIDATES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # shard (5+ digits) followed by 4+ digits within it; no dots
        pa.field("uid", pa.string(), nullable=False),  # 32 hex digits of the canonical URL and the AltText
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string()),  # the AltText as crawled, null where the page has none
        pa.field("page_url", pa.string()),
        pa.field("page_title", pa.string()),
        pa.field("figcaption", pa.string()),
        pa.field("language", pa.string()),  # `lang` around the image, else null
        pa.field("source", pa.string(), nullable=False),  # file or seed that the row was found in
        pa.field("scores", pa.string()),  # JSON object of the numbers that the source gives with the row, else null
        pa.field("stored_in", pa.string()),  # file of the source that holds the image, null where it is fetched
        pa.field("stored_at", pa.int64()),  # offset in that file, bytes
        pa.field("stored_bytes", pa.int64()),
    ]
)

# One row per candidate, whatever became of it.
CRAWL = pa.schema(
    [
        *CANDIDATES,
        pa.field("status", pa.string(), nullable=False),  # success, failed_to_download, failed_to_resize
        pa.field("error_message", pa.string()),  # why not success, else null
        pa.field("width", pa.int32()),  # pixels of the stored JPEG
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("original_format", pa.string()),  # JPEG, PNG, WEBP, GIF …
        pa.field("original_bytes", pa.int64()),
        pa.field("exif", pa.string()),  # JSON, `{}` where there is none
        pa.field("sha256", pa.string()),  # of the bytes as downloaded, 64 hex digits
        pa.field("phash", pa.string()),  # perceptual hash of the stored picture, 16 hex digits; null: too flat for one
    ]
)

# One row per downloaded image that is there already, in the version or, where that is asked for, in an earlier one (it
# may have a row of each): which one is kept, and why.
DUPLICATES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),  # uid of the row that is kept: the first by key
        pa.field("kind", pa.string(), nullable=False),  # exact: the same sha256; near: nearly the same phash
        pa.field("distance", pa.int32(), nullable=False),  # bits that the hashes differ in
        pa.field("version", pa.string()),  # that the row kept is of, null for this one
    ]
)

# One row per downloaded image with an AltText: how well they agree, as a CLIP model sees it.
SCORES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("text_md5", pa.string(), nullable=False),  # of the cleaned AltText, 32 hex digits
        pa.field("similarity", pa.float64()),  # cosine, to 4 decimals; null where the stored bytes are no image
        pa.field("scored_by", pa.string(), nullable=False),  # digest of model and parameters, 16 hex digits
    ]
)

# One row per row of CRAWL: may it go on?
VERDICTS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("alttext", pa.string()),  # AltText cleaned of markup and white space; null where it is no caption
        pa.field("alttext_problem", pa.string()),  # why the AltText is no caption: missing, file_name, boilerplate …
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # why the row is refused; empty where accepted
        pa.field("released", pa.list_(pa.string())),  # reasons that a person waived, null where none
    ]
)

# One time that a model wrote a text: of which variant, how it was drawn, and what became of it.
ATTEMPT = pa.struct(
    [
        pa.field("variant", pa.int32()),
        pa.field("temperature", pa.float64()),  # 0 is greedy
        pa.field("seed", pa.int64()),
        pa.field("tokens", pa.int32()),
        pa.field("problem", pa.string()),  # what screening found, null where the text was kept
    ]
)


def _written(side: str) -> list[pa.Field]:
    """Return the columns that say how the texts of *side* came about."""
    return [
        pa.field(f"{side}_problem", pa.string()),  # why there is no text of the model, else null
        pa.field(f"{side}_model", pa.string(), nullable=False),
        pa.field(f"{side}_revision", pa.string(), nullable=False),  # sha256 over the model's files, 16 hex digits
        pa.field(f"{side}_prompt", pa.string(), nullable=False),  # id@digest
        pa.field(f"{side}_parameters", pa.string(), nullable=False),  # JSON
        pa.field(f"{side}_tokens", pa.int32(), nullable=False),  # of all attempts
    ]


def _drawn(side: str) -> list[pa.Field]:
    return [
        pa.field(f"{side}_variants", pa.list_(pa.string())),  # in their order, null for one that was refused
        pa.field(f"{side}_attempts", pa.list_(ATTEMPT)),  # empty where the model was not asked
    ]


# One row per accepted row: what was written about it, by whom, and what screening found.
CAPTIONS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("alttext", pa.string()),
        pa.field("vec", pa.string()),  # null where the VLM wrote nothing usable
        *_written("vec"),
        pa.field("vecap", pa.string()),
        pa.field("vecap_from", pa.string(), nullable=False),  # llm, vec, alttext, none: the step that gave the text
        *_written("vecap"),
        *_drawn("vec"),
        *_drawn("vecap"),
        # The AltText rewritten alone; all null where that is not asked for.
        pa.field("alttext_rewritten", pa.string()),
        *(field.with_nullable(True) for field in _written("alttext_rewritten")),
        *_drawn("alttext_rewritten"),
    ]
)

# One row per training sample; the same values are in the shard's `.json` members. A text is "" where there is none, as
# open_clip wants plain strings. The variants of a text are all that may be drawn in its place, itself the first of
# them: one where a model wrote one, none where the text is "".
SAMPLES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the training shard
        pa.field("uid", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("alttext", pa.string(), nullable=False),
        pa.field("vec", pa.string(), nullable=False),
        pa.field("vecap", pa.string(), nullable=False),
        pa.field("vecap_from", pa.string(), nullable=False),
        pa.field("alttext_rewritten", pa.string(), nullable=False),  # by the LLM, of the AltText alone
        pa.field("vec_variants", pa.list_(pa.string()), nullable=False),
        pa.field("vecap_variants", pa.list_(pa.string()), nullable=False),
        pa.field("alttext_rewritten_variants", pa.list_(pa.string()), nullable=False),
    ]
)
