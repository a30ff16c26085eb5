"""The processor of a VLM's folder: what makes a model's inputs of texts and pictures.

Qwen-VL, LLaVA-OneVision, SmolVLM and others bring a processor for videos beside that for pictures, and transformers
loads neither where torchvision is not installed. Nobody here asks about videos: the place is left empty then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PROCESSOR_MAPPING, AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.utils import is_torchvision_available

_VIDEO = "video_processor"
_PARTS = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}


def load_processor(folder: Path) -> Any:
    """Load the processor by transformers' Auto classes. Raises what those raise for a folder that has none."""
    kind = PROCESSOR_MAPPING.get(
        type(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)), None
    )
    attributes = kind.get_attributes() if hasattr(kind, "get_attributes") else []
    if kind is None or is_torchvision_available() or not {_VIDEO} < set(attributes) <= {_VIDEO, *_PARTS}:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    parts = [
        None if name == _VIDEO else _PARTS[name].from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for name in attributes
    ]
    settings, more = kind.get_processor_dict(folder, local_files_only=True)
    return _without_videos(kind).from_args_and_dict(parts, settings, **more)


def _without_videos(kind: Any) -> Any:
    class Pictures(kind):  # type: ignore[misc]  # transformers has no types
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
            return None if argument_name == _VIDEO else super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Return what *kind* has: transformers reads it off a signature, which a subclass hides."""
            names: list[str] = kind.get_attributes()
            return names

    Pictures.__name__ = kind.__name__  # by which processors tell their settings
    return Pictures
