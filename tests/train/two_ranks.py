"""What torchrun runs twice for test_ranks.py: the loss and the gradients of a batch shared by two ranks, on gloo.

Prints, from the first rank, the largest differences from the same batch in one process as one line of JSON.
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
from vecap_tasks.train.model_forward import Part, build_towers, forward_backward


def gradients(config: TrainConfig, tokenizer, process_group: ProcessGroup, pixels, ids, size: int):
    """Return the loss of the batch and the gradients of all that is learned, taken in parts of *size* samples."""
    model = build_model(config.model, tokenizer, 0)
    objective = Objective(config.loss, model.logit_scale, process_group)
    objective.reset_parameters()
    towers = build_towers(model, config, process_group)
    part = len(ids) // process_group.world
    own = slice(process_group.rank * part, (process_group.rank + 1) * part)
    parts = [
        Part(partial(lambda images: images, images), texts)
        for images, texts in zip(pixels[own].split(size), ids[own].split(size), strict=True)
    ]
    loss = process_group.mean(forward_backward(towers, objective, parts, partial(torch.autocast, "cpu", enabled=False)))
    learned = [*model.parameters(), *objective.parameters()]
    return loss, torch.cat([parameter.grad.flatten() for parameter in learned])


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    with join_process_group("cpu", 60) as process_group:
        alone = ProcessGroup(process_group.device)
        for loss in ("contrastive", "sigmoid"):
            config = configure(Path(sys.argv[1]), loss=loss)
            tokenizer = load_tokenizer(config)
            torch.manual_seed(1)
            pixels, ids = torch.randn(12, 3, 32, 32), torch.randint(5, 300, (12, 24))
            ids[:, -1] = tokenizer.eos_token_id
            value, wanted = gradients(config.train, tokenizer, alone, pixels, ids, 12)
            for size in (6, 2, 4):  # 4 of 6 leaves a part of 2
                shared, made = gradients(config.train, tokenizer, process_group, pixels, ids, size)
                found[f"{loss} {size}"] = float((shared - value).abs()), float((made - wanted).abs().max())
            parts, made = gradients(config.train, tokenizer, alone, pixels, ids, 5)
            found[f"{loss} alone"] = float((parts - value).abs()), float((made - wanted).abs().max())
        if process_group.rank == 0:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
