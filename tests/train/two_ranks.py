"""Computes the loss and gradients of a batch on two ranks with gloo; test_ranks.py runs it with torchrun.

Rank 0 prints the largest differences from the same batch in one process, as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch

from tests.train.factories import configure
from vecap_tasks.config import TrainConfig
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.distributed import ProcessGroup, join_process_group
from vecap_tasks.train.loss import Objective
from vecap_tasks.train.model import build_model
from vecap_tasks.train.model_forward import MicroBatch, build_towers, forward_backward


def gradients(config: TrainConfig, tokenizer, process_group: ProcessGroup, pixels, ids, size: int):
    """Return the loss of the batch and the gradients of all parameters, with micro-batches of *size* samples."""
    model = build_model(config.model, tokenizer, 0)
    objective = Objective(config.loss, model.logit_scale, process_group)
    objective.reset_parameters()
    towers = build_towers(model, config, process_group)
    count = len(ids) // process_group.world_size
    rows = slice(process_group.rank * count, (process_group.rank + 1) * count)
    micro_batches = [
        MicroBatch(partial(lambda images: images, images), texts)
        for images, texts in zip(pixels[rows].split(size), ids[rows].split(size), strict=True)
    ]
    autocast = partial(torch.autocast, "cpu", enabled=False)
    loss = process_group.all_reduce_mean(forward_backward(towers, objective, micro_batches, autocast))
    parameters = [*model.parameters(), *objective.parameters()]
    return loss, torch.cat([parameter.grad.flatten() for parameter in parameters])


def main() -> None:
    torch.set_num_threads(1)
    differences = {}
    with join_process_group("cpu", 60) as process_group:
        single_process = ProcessGroup(process_group.device)
        for loss in ("contrastive", "sigmoid"):
            config = configure(Path(sys.argv[1]), loss=loss)
            tokenizer = load_tokenizer(config)
            torch.manual_seed(1)
            pixels, ids = torch.randn(12, 3, 32, 32), torch.randint(5, 300, (12, 2, 24))
            ids[..., -1] = tokenizer.eos_token_id
            expected_loss, expected = gradients(config.train, tokenizer, single_process, pixels, ids, 12)
            cases = [(size, process_group) for size in (6, 2, 4)]  # 4 of 6 samples leave a micro-batch of 2
            for size, group in (*cases, (5, single_process)):
                value, result = gradients(config.train, tokenizer, group, pixels, ids, size)
                difference = float((value - expected_loss).abs()), float((result - expected).abs().max())
                differences[f"{loss} {group.world_size} ranks, micro-batch {size}"] = difference
        if process_group.rank == 0:
            print(json.dumps(differences), flush=True)


if __name__ == "__main__":
    main()
