"""Small checkpoints with random weights of common captioning architectures.

Each builder takes a tokenizer and returns a model with its processor. They cover processors that insert the image
token, processors that require it, a variable number of image tokens, and encoder-decoder models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin


@dataclass(frozen=True)
class ProcessorFiles:
    """A processor as files. Processors with a video processor cannot be constructed without torchvision."""

    images: Any
    tokenizer: PreTrainedTokenizerFast
    settings: dict[str, Any]
    template: str

    def save_pretrained(self, folder: Path) -> None:
        self.images.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps(self.settings))
        (folder / "chat_template.jinja").write_text(self.template)


ModelAndProcessor = tuple[PreTrainedModel, ProcessorMixin | ProcessorFiles]

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.6,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "initializer_range": 0.6,
}


def _text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return _TEXT | {"vocab_size": len(tokenizer)} | ids | more


def llava_next(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION),
        text_config=transformers.LlamaConfig(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_onevision(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    tokenizer.add_special_tokens({"extra_special_tokens": ["<video>"]})
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**_VISION, vision_use_head=False),
        text_config=transformers.Qwen2Config(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        vision_feature_layer=-1,
    )
    images = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]]
    )
    settings = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 4,
        "vision_feature_select_strategy": "full",
    }
    processor = ProcessorFiles(images, tokenizer, settings, template)
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def qwen2_vl(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": marks})
    image, video, begin, end = tokenizer.convert_tokens_to_ids(marks)
    config = transformers.Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        text_config=_text(
            tokenizer, rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
        ),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=begin,
        vision_end_token_id=end,
    )
    images = transformers.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 16)
    template = template.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = ProcessorFiles(images, tokenizer, {"processor_class": "Qwen2VLProcessor"}, template)
    return transformers.Qwen2VLForConditionalGeneration(config), processor


def smolvlm(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    marks = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer.add_special_tokens({"extra_special_tokens": marks})
    config = transformers.SmolVLMConfig(
        vision_config=_VISION,
        text_config=transformers.LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    images = transformers.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = ProcessorFiles(images, tokenizer, {"processor_class": "SmolVLMProcessor", "image_seq_len": 1}, template)
    return transformers.SmolVLMForConditionalGeneration(config), processor


def paligemma(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    """Without a chat template."""
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**_VISION, vision_use_head=False),
        text_config=transformers.GemmaConfig(**_text(tokenizer, head_dim=16)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    return transformers.PaliGemmaForConditionalGeneration(config), transformers.PaliGemmaProcessor(images, tokenizer)


def blip2(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    """Without a chat template; the processor inserts the image token."""
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 32,
            "vocab_size": len(tokenizer),
        },
        text_config=transformers.OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=4096,
            word_embed_proj_dim=32,
            init_std=0.6,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.Blip2ForConditionalGeneration(config), transformers.Blip2Processor(images, tokenizer, 4)


def blip2_t5(tokenizer: PreTrainedTokenizerFast, template: str) -> ModelAndProcessor:
    """BLIP-2 with an encoder-decoder language model."""
    model, processor = blip2(tokenizer, template)
    config = model.config
    config.text_config = _t5(tokenizer)
    config.use_decoder_only_language_model = False
    return transformers.Blip2ForConditionalGeneration(config), processor


VLMS = (llava_next, llava_onevision, qwen2_vl, smolvlm, paligemma, blip2, blip2_t5)


def _t5(tokenizer: PreTrainedTokenizerFast) -> Any:
    return transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_factor=3.0,
    )


def t5(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return transformers.T5ForConditionalGeneration(_t5(tokenizer))


def bart(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            init_std=0.6,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=None,
        )
    )


def gpt2(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=2048,
            n_embd=32,
            n_layer=2,
            n_head=2,
            initializer_range=0.6,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def mistral(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**_text(tokenizer)))


LLMS = (t5, bart, gpt2, mistral)
