"""The two towers of a CLIP model as one module, and a step's gradients through them, in one go or in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import CLIPModel

from vecap_tasks.config import TrainConfig
from vecap_tasks.train.distributed import Ranks
from vecap_tasks.train.loss import Objective


class Towers(nn.Module):
    """Images and texts to features, sharing the modules of *model*; its logit scale belongs to the loss."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection
        self.text_model, self.text_projection = model.text_model, model.text_projection

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of float32 [n, 3, size, size] and of int64 [n, tokens]: float32 [n, d] each."""
        images = self.visual_projection(self.vision_model(pixel_values=pixels).pooler_output)
        texts = self.text_projection(self.text_model(input_ids=ids).pooler_output)
        return images.float(), texts.float()


def new_towers(model: CLIPModel, config: TrainConfig, ranks: Ranks) -> Towers | DistributedDataParallel:
    """Return the towers of *model*, which lies on the device of *ranks*, as they are trained."""
    if config.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    towers = Towers(model)
    if config.compile:
        towers.compile()
    if ranks.world == 1:
        return towers
    return DistributedDataParallel(
        towers,
        device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a rank's part of a batch: `pixels` gives their images as the model takes them, when asked."""

    pixels: Callable[[], torch.Tensor]
    ids: torch.Tensor


def add_gradients(
    towers: Towers | DistributedDataParallel,
    objective: Objective,
    parts: Sequence[Part],
    autocast: Callable[[], torch.autocast],
) -> torch.Tensor:
    """Give the parameters, which have no gradients yet, those of one batch; return this rank's part of the loss.

    With several *parts*, activations of one part alone are held at any time, and the loss is nonetheless that of the
    whole batch: features are made without activations, the loss gives a gradient for each feature, and with that each
    part goes through the towers once more (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup").
    """
    if len(parts) == 1:
        with autocast():
            images, texts = towers(parts[0].pixels(), parts[0].ids)
        loss: torch.Tensor = objective(images, texts)
        loss.backward()
    else:
        with torch.no_grad(), autocast():
            made = [towers(part.pixels(), part.ids) for part in parts]
        images, texts = (torch.cat(features).requires_grad_() for features in zip(*made, strict=True))
        loss = objective(images, texts)
        own = list(objective.parameters())
        of_images, of_texts, *rest = torch.autograd.grad(loss, [images, texts, *own])
        for parameter, gradient in zip(own, rest, strict=True):
            parameter.grad = gradient
        first = 0
        for part in parts:
            stop = first + len(part.ids)
            with nullcontext() if stop == len(images) else _alone(towers):
                with autocast():
                    again = towers(part.pixels(), part.ids)
                torch.autograd.backward(again, [of_images[first:stop], of_texts[first:stop]])
            first = stop
    objective.average_gradients()
    return loss.detach()


def _alone(towers: Towers | DistributedDataParallel) -> AbstractContextManager[None]:
    """Return a context in which gradients stay with this rank: the last part sends the sum of all."""
    return towers.no_sync() if isinstance(towers, DistributedDataParallel) else nullcontext()
