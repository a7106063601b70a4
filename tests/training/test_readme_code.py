"""The README's way from a run to the keypoints of a new photo, word for word."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semipose.training.run import run
from semipose.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]


def test_a_trained_network_finds_keypoints_in_a_new_photo(
    tiny_run: Callable[..., RunSettings], drawn_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = min((drawn_shards / "val-coco" / "images").iterdir())
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    run(tiny_run("supervised", "steps=1", f"output={tmp_path / 'runs' / 'mine'}"), resume=False)
    monkeypatch.chdir(tmp_path)
    found = []
    for folder in ("training", "semipose"):
        (code,) = re.findall(r"```python\n(.*?)```", (ROOT / folder / "README.md").read_text(), re.DOTALL)
        names: dict[str, Any] = {}
        exec(code, names)
        found.append(names["people"])
    assert found[0].xy.shape == (1, 14, 2)
    assert np.array_equal(found[0].xy, found[1].xy)
    assert (tmp_path / "people.webp").is_file()
