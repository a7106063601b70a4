"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


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
