"""The folders of a run and of exports, drawn photos, and photos of one's own."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from semipose.export.command import ExportSettings, export
from semipose.sharding.annotations.skeleton import LSP_14
from tests.semipose.models import make_model, person_model, write_folder


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


@pytest.fixture
def film(write_photo, tmp_path) -> Path:
    """Six frames at 10 per second in a codec without loss, which are also PNG files in `frames`."""
    av = pytest.importorskip("av", reason="PyAV is not installed (pip install 'semipose[video]')")
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 60, 81, "bgr0"
        for i in range(6):
            pixels = np.asarray(Image.open(write_photo(tmp_path / "frames" / f"{i}.png", 60, 81, seed=i)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def pt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What `semipose export format=pt2` writes of `make_model(name)`, once for each name."""

    @cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        source = write_folder(folder / "mine", make_model(name))
        cfg = ExportSettings(format="pt2", output=str(folder / "out"), views=8)
        return export(str(source), cfg, Console(quiet=True))

    return folder_of
