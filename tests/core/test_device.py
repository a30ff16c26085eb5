"""Models run on the configured device, or a one-line error explains why not."""

from __future__ import annotations

import pytest
import torch

from vecap_tasks.core.models import open_device
from vecap_tasks.errors import ConfigError


def test_an_available_device_is_opened() -> None:
    assert open_device("train.device", "cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "mps", "nonsense"])
def test_an_unavailable_device_is_a_one_line_error(name: str) -> None:
    pattern = rf"^train\.device: device '{name}' is not available: .*; set it to cpu"
    with pytest.raises(ConfigError, match=pattern) as error:
        open_device("train.device", name)
    assert "\n" not in str(error.value)


def test_an_unused_gpu_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The GPU is simulated."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for _ in range(2):
        open_device("some.device", "cpu")
        open_device("other.device", "cpu")
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}.device is cpu, but a GPU is available; set {name}.device=cuda to use it" for name in ("some", "other")
    ]
