"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest
import torch

# How long an example takes says something of the machine, not of the software.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

REAL_SETS = ("aic", "coco", "crowdpose", "lspet", "mpii")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and annotations; tests that need it skip where it or a part is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEMIPOSE_TEST_DATA", default))
    absent = [name for name in REAL_SETS if not (folder / name).is_dir()]
    if absent:
        pytest.skip(
            f"no real test data: {folder} has no {', '.join(absent)} (SEMIPOSE_TEST_DATA names the folder)"
        )
    return folder


def pytest_configure() -> None:
    """Take back what `nohup` or a shell's background made this process ignore: tests send signals to
    themselves and to processes that inherit what is ignored, but no handler."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here (make test-gpu on a machine that has one)")
