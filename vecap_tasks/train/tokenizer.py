"""The text tokenizer of a CLIP model, made from any fast tokenizer so that what is exported works by itself.

CLIP reads a text's feature at its end token. So every text ends in one, padding stands on the right, and lower case
and the context's length are part of the tokenizer, not of the code around it.
"""

from __future__ import annotations

from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vecap_tasks.config import ClipConfig, Config
from vecap_tasks.errors import ConfigError, load_problem
from vecap_tasks.train.tokenizer_files import tokenizer_place

_BEGIN, _END, _PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
# transformers' CLIP takes this id for its releases' old, wrong configuration and then looks for the largest id.
_END_ID_OF_OLD_RELEASES = 2


def load_tokenizer(config: Config) -> PreTrainedTokenizerFast:
    """Load the configured tokenizer and make it CLIP's. Raises ConfigError where it cannot be loaded."""
    place = tokenizer_place(config)
    try:
        source = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"train.model.tokenizer: {place} cannot be loaded: {load_problem(error)}") from error
    if not isinstance(source, PreTrainedTokenizerFast):
        raise ConfigError(f"train.model.tokenizer: {place} is not a fast tokenizer; convert it to tokenizer.json")
    return clip_tokenizer(source, config.train.model)


def clip_tokenizer(source: PreTrainedTokenizerFast, model: ClipConfig) -> PreTrainedTokenizerFast:
    """Return *source* as CLIP's tokenizer: text -> begin, at most `context - 2` tokens, end, padding on the right.

    With `begin_token: false` there is no begin, and one token more. Padding may be the end token itself, as in OpenAI's
    tokenizer: CLIP reads at the first.
    """
    begin = source.bos_token or _BEGIN
    end = source.eos_token or _END
    if source.convert_tokens_to_ids(end) == _END_ID_OF_OLD_RELEASES:
        end = _END
    marks = {"eos_token": end, "pad_token": source.pad_token or _PAD}
    if model.begin_token:
        marks["bos_token"] = begin
    source.add_special_tokens(marks)
    backend = source.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    if model.lowercase:
        steps = [normalizers.Lowercase()]
        if backend.normalizer is not None:
            steps.append(backend.normalizer)
        backend.normalizer = normalizers.Sequence(steps)
    template = [begin, end] if model.begin_token else [end]
    backend.post_processor = TemplateProcessing(
        single=f"{begin}:0 $A:0 {end}:0" if model.begin_token else f"$A:0 {end}:0",
        special_tokens=[(token, backend.token_to_id(token)) for token in template],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin if model.begin_token else None,
        eos_token=end,
        pad_token=source.pad_token,
        unk_token=source.unk_token,
        model_max_length=model.context,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
