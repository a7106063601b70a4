"""The benchmark: it times fairly, does the same work on both sides, and reports every row."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pipelines.bench.__main__ import CLASSIC, LOADER, BenchSettings, make_shards, run
from pipelines.bench.classic import ClassicDataset
from pipelines.bench.measure import Row, measure
from pipelines.loader import eval_loader
from pipelines.views import PLAIN, ViewSettings
from sharding.formats.coco import CocoFormat
from tests.pipelines.conftest import encode


@pytest.fixture
def coco(tmp_path: Path) -> CocoFormat:
    """Three textured photos with two persons each, as a COCO file."""
    rng = np.random.default_rng(0)
    for i in range(3):
        texture = np.kron(rng.integers(0, 255, (15, 20, 3)), np.ones((16, 16, 1)))
        (tmp_path / f"{i}.jpg").write_bytes(encode(texture.astype(np.uint8)))
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 320, "height": 240} for i in range(3)]
    annotations = [
        {
            "id": 10 * i + j,
            "image_id": i,
            "category_id": 1,
            "iscrowd": 0,
            "area": 5000,
            "bbox": [40 + 120 * j, 50, 70, 140],
            "keypoints": [60 + 120 * j, 80, 2],
            "num_keypoints": 1,
        }
        for i in range(3)
        for j in range(2)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []}]
    file = tmp_path / "persons.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return CocoFormat(annotations=file, images=tmp_path)


def test_every_variant_is_timed_in_turn() -> None:
    calls: list[str] = []
    variants = {name: lambda name=name: calls.append(name) for name in "abc"}
    rows = measure(variants, batch_size=4, batches=2, warmup=1, rounds=range(4))
    order = [calls[i] for i in range(0, len(calls), 3)]
    assert "".join(order) == "abcbcacababc"
    assert [(row.name, len(row.rounds)) for row in rows] == [("a", 4), ("b", 4), ("c", 4)]


def test_row_reports_median_and_quartiles() -> None:
    row = Row("x", (1.0, 5.0, 2.0, 4.0, 30.0))
    assert row.median == 4
    assert row.quartiles == (2, 5)


def test_classic_loader_shows_the_same_view(coco: CocoFormat, tmp_path: Path) -> None:
    views = ViewSettings(size_hw=(128, 96), labelled=PLAIN, weak=PLAIN, strong=PLAIN)
    _, photos = make_shards(BenchSettings(source=coco, views=views), tmp_path, Console(quiet=True))
    ours = next(iter(eval_loader(photos, views, batch_size=6))).image
    dataset = ClassicDataset(coco.read(), views)
    for place, image in enumerate(ours):
        weak, strong, strong_from_weak = dataset[place]
        torch.testing.assert_close(weak, image, atol=0.02, rtol=0)
        torch.testing.assert_close(strong, image, atol=0.02, rtol=0)
        torch.testing.assert_close(strong_from_weak, torch.eye(2, 3))


def test_bench_writes_every_row(coco: CocoFormat, tmp_path: Path) -> None:
    cfg = BenchSettings(
        source=coco,
        output=tmp_path / "out" / "result.json",
        views=ViewSettings(size_hw=(64, 48)),
        batch_size=4,
        threads=1,
        rounds=2,
        batches=2,
    )
    result = run(cfg, Console(quiet=True))
    assert json.loads(cfg.output.read_text()) == result
    rows = {row["name"]: row for row in result["rows"]}
    assert {CLASSIC, LOADER, "stage: read", "stage: read, decode, both views"} <= set(rows)
    assert rows[CLASSIC]["times_classic"] == 1
    assert all(row["persons_per_s"] > 0 and len(row["rounds"]) == 2 for row in rows.values())
    assert result["persons"] == 6
    assert {"cpu", "cores", "commit", "versions"} <= set(result["machine"])
