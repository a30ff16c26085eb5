"""The device that a model runs on: the one that is named, or one clear line."""

from __future__ import annotations

import pytest
import torch

from vecap_tasks.core.models import open_device
from vecap_tasks.errors import ConfigError


def test_a_device_that_is_named_is_opened() -> None:
    assert open_device("train.device", "cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "mps", "nonsense"])
def test_a_device_that_is_not_there_is_one_clear_line(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.device: device '{name}' is not there: .*; set it to cpu") as told:
        open_device("train.device", name)
    assert "\n" not in str(told.value)


def test_an_unused_gpu_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The GPU is simulated: there is none where the tests run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for _ in range(2):
        open_device("some.device", "cpu")
        open_device("other.device", "cpu")
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}.device is cpu and there is a GPU, which stays unused; {name}.device=cuda uses it"
        for name in ("some", "other")
    ]
