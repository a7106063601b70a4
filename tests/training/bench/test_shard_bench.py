"""The benchmark of sharding: both ways cut the same people; speed, memory and bytes are reported."""

import tarfile
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.training.bench import shards
from semipose.training.bench.result import read_result
from semipose.training.bench.rivals.plain_shards import plain_loop
from semipose.training.bench.settings import ShardBenchSettings

QUIET = Console(quiet=True)


def test_build_and_plain_loop_are_compared_and_measured(drawn_shards: Path, tmp_path: Path) -> None:
    folder = drawn_shards / "train-coco"
    cfg = ShardBenchSettings(
        annotations=folder / "annotations.json",
        images=folder / "images",
        repeats=2,
        rounds=2,
        workers=1,
        memory_repeats=(1,),
        output=tmp_path / "shards.json",
    )
    result = shards.run(cfg, QUIET)
    assert read_result(cfg.output) == result
    assert cfg.output.with_suffix(".png").exists()
    assert [(row.name, row.base, len(row.rounds)) for row in result.rows] == [
        ("plain loop", "plain loop", 2),
        ("build", "plain loop", 2),
    ]
    photos = len({person.file_name for person in drawn_people(folder).persons})
    assert result.data["photos"] == 2 * photos
    shares = result.rows[1].facts
    assert 0 < shares["decode_share"] + shares["encode_share"] < 1
    assert result.facts["persons"] == 24
    assert result.facts["rows_1_times_peak_mib"] > 10


def drawn_people(folder: Path):
    return CocoFormat(annotations=folder / "annotations.json", images=folder / "images").read()


def test_plain_loop_stores_the_crops_of_the_build(drawn_shards: Path, tmp_path: Path) -> None:
    folder = drawn_shards / "train-coco"
    cfg = ShardBenchSettings(annotations=folder / "annotations.json", images=folder / "images")
    made = shards.build_settings(cfg, cfg.annotations, tmp_path / "unused", workers=1)
    people = made.source.read()
    plain_loop(
        shards.photo_tasks(made, people), people, made.crop, tmp_path / "plain", samples_per_shard=1000
    )
    plain = crops(tmp_path / "plain")
    built = crops(drawn_shards / "train")
    assert len(plain) == len(built) == 24
    for ours, theirs in zip(built, plain, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 3


def crops(folder: Path) -> list[np.ndarray]:
    images = []
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as file:
            for member in file:
                if member.name.endswith(".jpg"):
                    content = np.frombuffer(file.extractfile(member).read(), np.uint8)
                    images.append(cv2.imdecode(content, cv2.IMREAD_COLOR))
    return images


def test_rows_are_repeated_under_ids_of_their_own(drawn_shards: Path, tmp_path: Path) -> None:
    folder = drawn_shards / "train-coco"
    target = tmp_path / "repeated.json"
    shards.repeat_rows(folder / "annotations.json", 3, target)
    repeated = CocoFormat(annotations=target, images=folder / "images").read().persons
    assert len({person.id for person in repeated}) == len(repeated) == 72
