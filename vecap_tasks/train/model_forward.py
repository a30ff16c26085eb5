"""The towers of a CLIP model as one module, and the forward and backward pass of a batch, with micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vecap_tasks.config import TrainConfig
from vecap_tasks.train.distributed import ProcessGroup
from vecap_tasks.train.loss import Objective
from vecap_tasks.train.towers import ClipModel, padding_id


class Towers(nn.Module):
    """The image and text tower of *model*, sharing its modules. The logit scale belongs to the loss."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection
        self.text_model, self.text_projection = model.text_model, model.text_projection
        self._pad = padding_id(model)

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and text features, float32 [n, d] and [n, captions, d].

        *images* are float32 [n, 3, size, size], or the outputs [n, width] of the image tower; *ids* are int64
        [n, captions, tokens].
        """
        flat = ids.flatten(0, 1)
        mask = {} if self._pad is None else {"attention_mask": (flat != self._pad).long()}
        pooled = images if images.ndim == 2 else self.vision_model(pixel_values=images).pooler_output
        texts = self.text_projection(self.text_model(input_ids=flat, **mask).pooler_output)
        return self.visual_projection(pooled).float(), texts.float().unflatten(0, ids.shape[:2])


def build_towers(
    model: ClipModel, config: TrainConfig, process_group: ProcessGroup
) -> Towers | DistributedDataParallel:
    """Return the towers of *model*, ready for training. *model* must be on the device of the process group."""
    if config.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    towers = Towers(model)
    if config.compile:
        towers.compile()
    if process_group.world_size == 1:
        return towers
    return DistributedDataParallel(
        towers,
        device_ids=[process_group.device] if process_group.device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A slice of a rank's batch. `images` returns the first input of `Towers`; `ids` is the second."""

    images: Callable[[], torch.Tensor]
    ids: torch.Tensor


def forward_backward(
    towers: Towers | DistributedDataParallel,
    objective: Objective,
    micro_batches: Sequence[MicroBatch],
    autocast: Callable[[], torch.autocast],
) -> torch.Tensor:
    """Compute the gradients of one batch; all gradients must be None before. Return this rank's loss (scalar).

    With several *micro_batches*, only one holds activations at a time, but the loss is over the global batch: features
    are computed without activations, the loss gives their gradients, and each micro-batch runs through the towers again
    to backpropagate them (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
    """
    if len(micro_batches) == 1:
        with autocast():
            images, texts = towers(micro_batches[0].images(), micro_batches[0].ids)
        loss: torch.Tensor = objective(images, texts)
        loss.backward()
    else:
        with torch.no_grad(), autocast():
            features = [towers(micro_batch.images(), micro_batch.ids) for micro_batch in micro_batches]
        images, texts = (torch.cat(parts).requires_grad_() for parts in zip(*features, strict=True))
        loss = objective(images, texts)
        parameters = list(objective.parameters())
        image_gradients, text_gradients, *gradients = torch.autograd.grad(loss, [images, texts, *parameters])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        start = 0
        for micro_batch in micro_batches:
            stop = start + len(micro_batch.ids)
            with nullcontext() if stop == len(images) else _no_sync(towers):
                with autocast():
                    outputs = towers(micro_batch.images(), micro_batch.ids)
                torch.autograd.backward(outputs, [image_gradients[start:stop], text_gradients[start:stop]])
            start = stop
    objective.average_gradients()
    return loss.detach()


def _no_sync(towers: Towers | DistributedDataParallel) -> AbstractContextManager[None]:
    """Return a context without gradient synchronization; the last micro-batch synchronizes the sum."""
    return towers.no_sync() if isinstance(towers, DistributedDataParallel) else nullcontext()
