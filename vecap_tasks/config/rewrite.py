"""Configuration of the stage rewrite: models, prompts and screening."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vecap_tasks.config.section import Device, Runtime, Section


class ServerConfig(Section):
    """An OpenAI-compatible server and its request limits."""

    urls: Annotated[tuple[str, ...], Runtime] = Field(
        min_length=1, description="Base URLs including `/v1`; `${NAME}` expands an environment variable."
    )
    api_key_env: Annotated[str | None, Runtime] = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable with the API key on every worker; never the key itself.",
    )
    revision: str | None = Field(
        None, description="Revision of the served weights, such as a commit, for the provenance of captions."
    )
    body: dict[str, Any] = Field(
        default_factory=dict, description="Additional request fields, such as `chat_template_kwargs`."
    )
    requests: Annotated[int, Runtime] = Field(64, ge=1, description="Maximum requests in flight per URL.")
    deadline: Annotated[float, Runtime] = Field(120.0, gt=0, description="Request timeout in seconds.")
    latency_threshold: Annotated[float, Runtime] = Field(
        30.0, gt=0, description="Seconds; slower responses reduce the requests in flight."
    )
    max_attempts: Annotated[int, Runtime] = Field(8, ge=1, description="Maximum attempts per request.")

    @field_validator("urls")
    @classmethod
    def _no_secrets(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if any("@" in url or "?" in url for url in urls):
            raise ValueError(
                "URL contains a user or a query; store the key in a variable and set api_key_env to its name"
            )
        return urls


class PriceConfig(Section):
    """The price of a model in any currency. Affects only reported costs, not captions."""

    per_hour: float = Field(0.0, ge=0, description="Price per worker-hour of generation.")
    per_million_prompt_tokens: float = Field(0.0, ge=0, description="Price per million prompt tokens.")
    per_million_tokens: float = Field(0.0, ge=0, description="Price per million generated tokens.")


_MACHINE = ("device", "threads")  # settings of the worker's machine


class ModelConfig(Section):
    """A generative model: a checkpoint that workers load (`transformers`) or a served model (`openai`).

    `model` is a folder, a name in the local hub cache, or the name of a served model.
    """

    backend: Literal["transformers", "openai"] = Field(
        "transformers",
        description="`transformers` loads the model in the worker; `openai` uses an OpenAI-compatible server.",
    )
    model: str = Field(description="Folder or cached hub name; with `openai`, the served name.")
    prompt: str = Field(
        description="Name of a prompt file in rewrite.prompts or vecap_tasks/rewrite/prompts, without extension."
    )
    max_new_tokens: int = Field(64, ge=1, description="Maximum tokens of a generated text.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature; 0 is greedy decoding.")
    num_captions: int = Field(
        1, ge=1, le=64, description="Texts to generate per input; the first accepted one is used."
    )
    retry_temperature: float = Field(
        0.7, ge=0, le=2, description="Temperature of the retry after screening rejects a text; 0 disables the retry."
    )
    batch_size: int = Field(
        32, ge=1, description="Rows per forward pass. Part of the fingerprint because it can affect rounding."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the weights.")
    device: Device = "cpu"
    threads: int = Field(
        1, ge=1, description="CPU threads per worker. Part of the fingerprint because it affects rounding."
    )
    server: ServerConfig | None = Field(None, description="Server of a served model (`backend: openai`).")
    price: Annotated[PriceConfig, Runtime] = PriceConfig()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.backend == "openai") != (self.server is not None):
            raise ValueError("`backend: openai` requires a `server`, and other backends have none; set both or neither")
        if self.num_captions > 1 and self.temperature == 0:
            raise ValueError("num_captions > 1 at temperature 0 gives identical texts; raise the temperature")
        return self

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        for name in ("batch_size", "dtype", *_MACHINE) if self.backend == "openai" else ("server",):
            del values[name]  # no effect with this backend
        return values

    def parameters(self) -> dict[str, Any]:
        """Return the generation parameters of a caption row, without model and prompt, which have their own columns.

        Leaves out device and threads, which only affect rounding, so that captions are reused on other machines.
        `num_captions` keeps its name of 0.1.0, `variants`, so that captions of that release are reused.
        """
        names = {"num_captions": "variants"}
        values = self.identity().items()
        return {names.get(name, name): value for name, value in values if name not in ("model", "prompt", *_MACHINE)}


# Rules that can be disabled: all but `private_data`.
ScreenRule = Literal[
    "empty",
    "refusal",
    "preamble",
    "prompt_leak",
    "markup",
    "loop",
    "url",
    "language",
    "too_long",
    "cut_off",
    "drops_vec",
    "invented",
]


class ScreenConfig(Section):
    """Thresholds of the screening rules for generated texts; see `vecap_tasks.rewrite.screen`."""

    disabled_rules: tuple[ScreenRule, ...] = Field((), description="Rules to skip. `private_data` always applies.")
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = Field(
        ("en",), description="ISO 639-1 codes of the allowed caption languages; empty allows all."
    )
    max_words: int = Field(80, ge=1, description="Maximum words of a caption. CLIP reads 77 tokens.")
    leak_words: int = Field(6, ge=3, description="Consecutive words of the prompt that count as a prompt leak.")
    min_vec_kept: float = Field(
        0.45, ge=0, le=1, description="Minimum share of the VeC's concepts in a VeCap, in the same words or synonyms."
    )
    max_new_names: int = Field(0, ge=0, description="Maximum names and numbers of a VeCap that no source contains.")
    strip_preamble: bool = Field(True, description="Remove a preamble and keep the caption, instead of rejecting both.")

    @field_validator("disabled_rules", mode="before")
    @classmethod
    def _keeps_private_data(cls, rules: Any) -> Any:
        if isinstance(rules, list | tuple) and "private_data" in rules:
            raise ValueError(
                "private_data cannot be disabled, because texts with private data are never published; remove it"
            )
        return rules


class RewriteConfig(Section):
    vlm: ModelConfig
    llm: ModelConfig
    alttext_prompt: str | None = Field(
        None,
        description="Prompt with which the LLM also rewrites the AltText without the VeC, as in LaCLIP. Default: off.",
    )
    prompts: Annotated[str | None, Runtime] = Field(
        None, description="Folder with your prompts, searched first. A prompt's digest is part of the fingerprint."
    )
    screen: ScreenConfig = ScreenConfig()
    max_alttext_chars: int = Field(512, ge=16, description="Maximum characters of an AltText in the LLM's prompt.")
    shard_size: int = Field(10_000, ge=1, description="Rows per shard.")
    max_rejected: Annotated[float, Runtime] = Field(
        0.9,
        ge=0,
        le=1,
        description="Maximum share of a shard's requests that a server can reject before the shard fails. 1: no limit.",
    )
