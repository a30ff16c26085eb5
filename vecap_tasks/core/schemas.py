"""The Arrow schemas of all tables that stages exchange: the only place that declares columns.

Names follow img2dataset and DataComp where possible (`url, caption, key, status, error_message, width,
height, original_width, original_height, exif, sha256, uid`), so that their tools read these files.
"""

import pyarrow as pa

# The links that a crawl's sources yield, before any download: one row per (image, AltText) pair, one per `uid`.
CANDIDATES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # shard (5+ digits) followed by 4+ digits within it; no dots
        pa.field("uid", pa.string(), nullable=False),  # 32 hex digits of the canonical URL and the AltText
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string()),  # the AltText as crawled, null if the page has none
        pa.field("page_url", pa.string()),
        pa.field("page_title", pa.string()),
        pa.field("figcaption", pa.string()),
        pa.field("language", pa.string()),  # `lang` around the image, else null
        pa.field("source", pa.string(), nullable=False),  # file or seed that contains the row
        pa.field("scores", pa.string()),  # JSON object of the source's numeric columns, else null
        pa.field("stored_in", pa.string()),  # source file that contains the image, null if it is downloaded
        pa.field("stored_at", pa.int64()),  # offset in that file, bytes; in a table, the number of the row
        pa.field("stored_bytes", pa.int64()),
    ]
)

# A last column of the tables of crawls with `crawl.source.keep_columns`: CANDIDATES, CRAWL, CAPTIONS and SAMPLES.
KEPT = pa.field("kept", pa.string(), nullable=False)  # JSON object of these columns, in their order


# A column after those of SAMPLES in a version that refers to the images of an earlier one: name in the store of the tar
# with the image; `key` is the same there.
IMAGE_TAR = pa.field("image_tar", pa.string(), nullable=False)


def with_kept(schema: pa.Schema, kept: bool) -> pa.Schema:
    """Return *schema*, with the column `kept` if *kept*."""
    return schema.append(KEPT) if kept else schema


# One row per candidate, with its outcome.
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
        pa.field("exif", pa.string()),  # JSON, `{}` if there is none
        pa.field("sha256", pa.string()),  # of the bytes as downloaded, 64 hex digits
        pa.field("jpeg_sha256", pa.string()),  # of the stored JPEG; missing in crawls of release 0.1.0
        pa.field("phash", pa.string()),  # perceptual hash of the stored image, 16 hex digits; null: too flat to hash
    ]
)

# The index of a crawl: one row per distinct image, sorted by sha256. Later versions find their duplicates with it.
HASHES = pa.schema(
    [
        pa.field("key", pa.string()),  # of the first row with the image
        pa.field("uid", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.uint64()),  # null: too flat to hash
    ]
)

# One row per downloaded duplicate of an image in this version or, if configured, in an earlier one (an image may have
# a row of each).
DUPLICATES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),  # uid of the retained row: the first by key
        pa.field("kind", pa.string(), nullable=False),  # exact: the same sha256; near: nearly the same phash
        pa.field("distance", pa.int32(), nullable=False),  # Hamming distance of the hashes
        pa.field("version", pa.string()),  # version of the retained row, null for this one
    ]
)

# One row per downloaded image with an AltText: their similarity under a CLIP model.
SCORES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("text_md5", pa.string(), nullable=False),  # of the cleaned AltText, 32 hex digits
        pa.field("similarity", pa.float64()),  # cosine, to 4 decimals; null if the stored image cannot be decoded
        pa.field("scored_by", pa.string(), nullable=False),  # digest of model and parameters, 16 hex digits
    ]
)

# One row per row of CRAWL: accepted or rejected.
VERDICTS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("alttext", pa.string()),  # AltText without markup and extra white space; null if it is no caption
        pa.field("alttext_problem", pa.string()),  # why the AltText is no caption: missing, file_name, boilerplate …
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # why the row is rejected; empty if accepted
        pa.field("released", pa.list_(pa.string())),  # reasons waived by a release, null if none
    ]
)

# One generation of a text by a model, with its sampling parameters and screening result.
ATTEMPT = pa.struct(
    [
        pa.field("variant", pa.int32()),
        pa.field("temperature", pa.float64()),  # 0 is greedy
        pa.field("seed", pa.int64()),
        pa.field("tokens", pa.int32()),
        pa.field("problem", pa.string()),  # screening result, null if the text was accepted
        # The model's answer before screening, for later screening only; null if there is none, if it has private data
        # or more than 16,384 characters, or in tables of earlier releases.
        pa.field("text", pa.string()),
        pa.field("ended", pa.bool_()),  # false if generation stopped at the token limit
    ]
)


def _provenance(side: str) -> list[pa.Field]:
    """Return the columns with the provenance of the texts of *side*."""
    return [
        pa.field(f"{side}_problem", pa.string()),  # why the model has no text, else null
        pa.field(f"{side}_model", pa.string(), nullable=False),
        pa.field(f"{side}_revision", pa.string(), nullable=False),  # sha256 over the model's files, 16 hex digits
        pa.field(f"{side}_prompt", pa.string(), nullable=False),  # id@digest
        pa.field(f"{side}_parameters", pa.string(), nullable=False),  # JSON: sampling and screening
        pa.field(f"{side}_tokens", pa.int32(), nullable=False),  # sum over all attempts
    ]


def _generations(side: str) -> list[pa.Field]:
    return [
        pa.field(f"{side}_variants", pa.list_(pa.string())),  # in order, null for a rejected one
        pa.field(f"{side}_attempts", pa.list_(ATTEMPT)),  # empty if the model did not run
    ]


# One row per accepted row: the generated texts, their provenance and screening results.
CAPTIONS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("jpeg_sha256", pa.string(), nullable=False),  # of the image that the VLM saw; missing before 0.2.0
        pa.field("alttext", pa.string()),
        pa.field("vec", pa.string()),  # null if the VLM produced no valid text
        *_provenance("vec"),
        pa.field("vecap", pa.string()),
        pa.field("vecap_from", pa.string(), nullable=False),  # llm, vec, alttext, none: the step that produced the text
        *_provenance("vecap"),
        *_generations("vec"),
        *_generations("vecap"),
        # The AltText rewritten without the VeC; all null unless configured.
        pa.field("alttext_rewritten", pa.string()),
        *(field.with_nullable(True) for field in _provenance("alttext_rewritten")),
        *_generations("alttext_rewritten"),
    ]
)

# One row per training sample; the `.json` members of the shard have the same values. A missing text is "", because
# open_clip expects plain strings. The variants of a text are the texts that training may sample, starting with the text
# itself: one if a model wrote one, none if the text is "".
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
        pa.field("alttext_rewritten", pa.string(), nullable=False),  # by the LLM, from the AltText only
        pa.field("vec_variants", pa.list_(pa.string()), nullable=False),
        pa.field("vecap_variants", pa.list_(pa.string()), nullable=False),
        pa.field("alttext_rewritten_variants", pa.list_(pa.string()), nullable=False),
    ]
)
