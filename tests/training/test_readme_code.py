"""The README's way from a run to the keypoints of new photos and to a file of weights, word for word."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from semipose.models.net import build_net
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.training.run import run
from semipose.training.settings import RunSettings

README = Path(__file__).resolve().parents[2] / "training" / "README.md"


def test_a_trained_network_finds_keypoints_in_new_photos_and_leaves_its_weights(
    tiny_run: Callable[..., RunSettings], drawn_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = drawn_shards / "val-coco"
    photos = FolderFormat(images=coco / "images", skeleton=str(coco / "annotations.json"))
    build(
        BuildSettings(source=photos, output=tmp_path / "shards" / "my-photos", workers=1),
        console=Console(quiet=True),
    )
    job = run(tiny_run("supervised", "steps=1", f"output={tmp_path / 'runs' / 'mine'}"), resume=False)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)

    files = {path.name for path in (coco / "images").iterdir()}
    assert {record["file_name"] for record in names["people"].records} == files
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert len(rows) == len(files)
    assert all(len(row["keypoints"]) == 3 * 14 for row in rows)
    network = build_net(names["cfg"].net, 14)
    network.load_state_dict(torch.load(tmp_path / "pose.pt", weights_only=True))
    trained = job.method.networks()["network"].state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in network.state_dict().items())
