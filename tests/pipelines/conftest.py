"""Small shards, written through the project's own record, index and manifest."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semipose.pipelines import stream
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.samples.crop import PersonCrop
from semipose.sharding.samples.person import encode_pose
from semipose.sharding.store.manifest import Manifest, ShardEntry, file_sha256, write_manifest
from tests.pipelines.servers import FileServer, pipe_of, serve
from tests.tars import build_index

SKELETON = Skeleton(names=("nose", "left", "right"), flip_pairs=((1, 2),), bones=(), sigmas=(0.05,) * 3)
BOX_XYWH = np.array([40, 30, 90, 160], np.float32)

MakeShards = Callable[..., Path]


def encode(pixels: np.ndarray) -> bytes:
    """A JPEG of (H, W, 3) uint8, without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def grey_photos(count: int) -> list[bytes]:
    """Photos of one grey each, by which a view tells which sample it shows: see `shown_samples`."""
    return [encode(np.full((240, 180, 3), 20 + 6 * i, np.uint8)) for i in range(count)]


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(payload)
    tar.addfile(member, io.BytesIO(payload))


def write_shards(
    folder: Path,
    jpegs: Sequence[bytes],
    *,
    keypoints: np.ndarray | None = None,
    boxes_xywh: np.ndarray | None = None,
    per_shard: int = 7,
) -> Path:
    """A folder of shards of those photos; keypoints (N, 3, 3), boxes (N, 4) in stored pixels; ids 100 + i."""
    folder.mkdir(parents=True)
    count = len(jpegs)
    keypoints = np.tile([[85.0, 110.0, 2.0]], (count, 3, 1)) if keypoints is None else keypoints
    boxes_xywh = np.tile(BOX_XYWH, (count, 1)) if boxes_xywh is None else boxes_xywh
    entries = []
    for start in range(0, count, per_shard):
        tar_path = folder / f"test-{len(entries):06d}.tar"
        places = range(start, min(start + per_shard, count))
        with tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in places:
                record: dict[str, Any] = {"id": 100 + i, "image_id": i, "file_name": f"{i}.jpg", "area": 1.0}
                record |= {
                    "source_size": [180, 240],
                    "image_from_stored": [[2.0, 0, 5.0], [0, 2.0, -3.0 + i]],
                }
                _add(tar, f"{i:09d}.jpg", jpegs[i])
                _add(tar, f"{i:09d}.pose", encode_pose(boxes_xywh[i], keypoints[i]))
                _add(tar, f"{i:09d}.json", json.dumps(record).encode())
        index = build_index(tar_path)
        entries.append(
            ShardEntry(
                file=tar_path.name,
                samples=len(places),
                bytes=tar_path.stat().st_size,
                sha256=file_sha256(tar_path),
                idx_sha256=file_sha256(index),
            )
        )
    num_marked = (keypoints[..., 2] > 0).sum(axis=1).tolist()
    rows = [{"id": 100 + i, "image_id": i, "num_keypoints": num_marked[i]} for i in range(count)]
    (folder / "ground_truth.json").write_text(json.dumps({"annotations": rows}))
    manifest = Manifest(
        format_version=1,
        kind="person",
        name="test",
        skeleton=SKELETON,
        crop=PersonCrop(),
        order="file",
        seed=0,
        shards=tuple(entries),
        annotations_sha256="",
        settings_sha256="",
        ground_truth_sha256=file_sha256(folder / "ground_truth.json"),
        dropped={},
        problems={},
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """`make_shards(jpegs, name="shards", **write_shards' options) -> folder`."""

    def make(jpegs: Sequence[bytes], *, name: str = "shards", **options: Any) -> Path:
        return write_shards(tmp_path / name, jpegs, **options)

    return make


@pytest.fixture
def grey_shards(make_shards: MakeShards) -> Callable[[int], Path]:
    """`grey_shards(count) -> folder` of photos that `shown_samples` tells apart."""
    return lambda count: make_shards(grey_photos(count), name=f"grey{count}")


PEOPLE = 17
"""In `people_folder`, in tars of 7, 7 and 3."""


@pytest.fixture
def people_folder(make_shards: MakeShards) -> Path:
    """A local folder of shards; `server`, `root` and `pipe_of` are other ways to it."""
    return make_shards(grey_photos(PEOPLE))


@pytest.fixture
def server(people_folder: Path, quick_retries: None) -> Iterator[FileServer]:
    """A web server over `people_folder`."""
    with serve(people_folder) as server:
        yield server


@pytest.fixture(params=["http", "pipe"])
def root(request: pytest.FixtureRequest, people_folder: Path, server: FileServer) -> str:
    """An address of `people_folder`, by each way to stream."""
    return server.url if request.param == "http" else pipe_of(people_folder)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting before a stream is opened again, and no way round the test's own server."""
    monkeypatch.setattr(stream, "WAIT_S", 0.001)
    monkeypatch.setattr(stream, "CURL", stream.CURL.replace("--retry 5", "--retry 0"))
    for name in ("http_proxy", "HTTP_PROXY", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
