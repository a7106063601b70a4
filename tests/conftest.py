"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and annotations; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEMIPOSE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"no real test data at {folder} (set SEMIPOSE_TEST_DATA to a folder that has coco/ and lspet/)"
        )
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here (make test-gpu on a machine that has one)")
