"""The folder of a run, drawn photos, and photos of one's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semipose.sharding.annotations.skeleton import LSP_14
from tests.semipose.models import person_model, write_folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model of random weights for LSP's 14 keypoints."""
    return write_folder(tmp_path_factory.mktemp("runs") / "mine", person_model(14, LSP_14))


@pytest.fixture
def write_photo() -> Callable[..., Path]:
    """`write_photo(path, width, height)` writes a coloured picture in the format of the suffix."""

    def write(path: Path, width: int = 60, height: int = 80, *, seed: int = 0, mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        picture.convert(mode).save(path)
        return path

    return write
