"""Where a test runs: the same body on a CPU and, where there is one, on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@contextmanager
def refusing_to_wait(device: str) -> Iterator[None]:
    """Inside, whatever makes the host wait for the GPU raises; a CPU has nothing to wait for."""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
