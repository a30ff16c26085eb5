"""What the stage rewrite needs to know: models, served or loaded, prompts, screening."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vecap_tasks.config.section import Device, Runtime, Section


class ServerConfig(Section):
    """Where a served model answers (OpenAI's chat completions), and how hard it may be asked."""

    urls: Annotated[tuple[str, ...], Runtime] = Field(
        min_length=1, description="Base addresses, up to and with `/v1`; `${NAME}` takes an environment variable."
    )
    api_key_env: Annotated[str | None, Runtime] = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key, on every worker; never the key itself.",
    )
    revision: str | None = Field(
        None, description="What you know of the served weights, such as a commit; it stands in the captions' rows."
    )
    body: dict[str, Any] = Field(
        default_factory=dict, description="More fields of each request, such as `chat_template_kwargs`."
    )
    requests: Annotated[int, Runtime] = Field(64, ge=1, description="Most requests in flight at one address.")
    deadline: Annotated[float, Runtime] = Field(120.0, gt=0, description="Seconds for one answer.")
    latency_threshold: Annotated[float, Runtime] = Field(
        30.0, gt=0, description="Seconds; a server that takes longer for an answer is asked less at once."
    )
    max_attempts: Annotated[int, Runtime] = Field(
        8, ge=1, description="Times that a request is sent before it is given up."
    )

    @field_validator("urls")
    @classmethod
    def _no_secrets(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if any("@" in url or "?" in url for url in urls):
            raise ValueError("an address holds a user or a query; put the key in a variable, name it in api_key_env")
        return urls


class PriceConfig(Section):
    """What a model costs, in a currency of your own; only notes follow from it, never a byte of the captions."""

    per_hour: float = Field(0.0, ge=0, description="For an hour in which one worker has the model write.")
    per_million_prompt_tokens: float = Field(0.0, ge=0)
    per_million_tokens: float = Field(0.0, ge=0, description="Of tokens written.")


_MACHINE = ("device", "threads")  # of a model that a worker loads


class ModelConfig(Section):
    """A model that writes text: a checkpoint loaded by the worker (`transformers`), or one that is served (`openai`).

    `model` is a folder, or a hub's name that lies in the local cache; of a served model the name that it is served by.
    """

    backend: Literal["transformers", "openai"] = "transformers"
    model: str
    prompt: str = Field(
        description="Name of a file in rewrite.prompts or vecap_tasks/rewrite/prompts, without its ending."
    )
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest token each time.")
    num_captions: int = Field(1, ge=1, le=64, description="Texts written of each; the first is the one that stands.")
    retry_temperature: float = Field(
        0.7, ge=0, le=2, description="A text that screening refuses is written once more at this; 0 gives it up."
    )
    batch_size: int = Field(
        32, ge=1, description="Rows per forward pass; part of the fingerprint, as rounding may follow it."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Device = "cpu"
    threads: int = Field(
        1, ge=1, description="CPU threads per worker; part of the fingerprint, as rounding follows them."
    )
    server: ServerConfig | None = Field(None, description="Of a served model.")
    price: Annotated[PriceConfig, Runtime] = PriceConfig()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.backend == "openai") != (self.server is not None):
            raise ValueError("a `server` goes with `backend: openai`, and that backend needs one; give both or neither")
        if self.num_captions > 1 and self.temperature == 0:
            raise ValueError("several variants at temperature 0 are one text; raise the temperature")
        return self

    def identity(self) -> dict[str, Any]:
        made = super().identity()
        for name in ("batch_size", "dtype", *_MACHINE) if self.backend == "openai" else ("server",):
            del made[name]  # decides nothing there
        return made

    def parameters(self) -> dict[str, Any]:
        """Return what a caption's row says of its writer beside model and prompt, which have columns of their own.

        Device and threads only change rounding, so they are left out and captions are reused on other machines.
        `num_captions` keeps its column name of 0.1.0, `variants`, so that captions of that release are reused.
        """
        names = {"num_captions": "variants"}
        values = self.identity().items()
        return {names.get(name, name): value for name, value in values if name not in ("model", "prompt", *_MACHINE)}


ScreenRule = Literal[
    "empty",
    "refusal",
    "preamble",
    "prompt_leak",
    "markup",
    "loop",
    "url",
    "private_data",
    "language",
    "too_long",
    "cut_off",
    "drops_vec",
    "invented",
]


class ScreenConfig(Section):
    """Thresholds of the rules over what the models write; `vecap_tasks.rewrite.screen` says what each rule is for."""

    disabled_rules: tuple[ScreenRule, ...] = Field((), description="Rules that are not applied.")
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = Field(
        ("en",), description="ISO 639-1 codes of the languages that captions may be in; empty takes all."
    )
    max_words: int = Field(80, ge=1, description="CLIP reads 77 tokens.")
    leak_words: int = Field(6, ge=3, description="Words in a row that only the prompt can have given.")
    min_vec_kept: float = Field(
        0.33, ge=0, le=1, description="Share of the VeC's concepts that a VeCap keeps, in these words or in others."
    )
    max_new_names: int = Field(0, ge=0, description="Names and numbers of a VeCap that neither of its sources has.")
    strip_preamble: bool = Field(True, description="Keep the caption after an introduction, instead of refusing both.")


class RewriteConfig(Section):
    vlm: ModelConfig
    llm: ModelConfig
    alttext_prompt: str | None = Field(
        None, description="Prompt by which the LLM also rewrites the AltText alone, as LaCLIP does; none: it does not."
    )
    prompts: Annotated[str | None, Runtime] = Field(
        None, description="Folder of your own prompts, looked into first; a prompt's digest enters the fingerprint."
    )
    screen: ScreenConfig = ScreenConfig()
    max_alttext_chars: int = Field(512, ge=16, description="Characters of an AltText that the LLM is shown.")
    shard_size: int = Field(10_000, ge=1)
    max_rejected: Annotated[float, Runtime] = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of a shard's requests that a server may refuse; above it the shard fails. 1 never fails.",
    )
