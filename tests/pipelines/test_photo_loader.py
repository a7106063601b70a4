"""Streams of whole photos: which photos, in which order, resumed how, and no label where none may be."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError
from semipose.pipelines import geometry, photo_graph
from semipose.pipelines.batch import LabelledPhotos, UnlabelledBatch
from semipose.pipelines.loader import LoaderSettings, ProcessInfo
from semipose.pipelines.photo_loader import eval_photo_loader, labelled_photo_loader, unlabelled_photo_loader
from semipose.pipelines.photo_views import PhotoPolicy, PhotoViewSettings
from semipose.pipelines.source import labelled_share, labelled_split, open_split, unlabelled_split
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.build import build
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.manifest import read_manifest, write_manifest
from tests.pipelines.conftest import MakeShards, encode, grey_photos
from tests.pipelines.photos import person, write_photos
from tests.pipelines.servers import pipe_of, serve
from tests.pipelines.test_loader import shown_samples
from tests.pipelines.test_shard_faults import members_of, write_tar
from tests.tars import build_index, stored_samples

STEADY = PhotoPolicy(shown_min=0.8, shown_max=1.2, shift=0.1)
VIEWS = PhotoViewSettings(size=64, labelled=STEADY, weak=STEADY)
GREY_HW = (240, 180)
LOADERS = pytest.mark.parametrize(
    "make", [labelled_photo_loader, unlabelled_photo_loader], ids=["labelled", "unlabelled"]
)
MakePhotos = Callable[..., Path]


@pytest.fixture
def make_photos(tmp_path: Path) -> MakePhotos:
    """`make_photos(count, name="photos", people=...)`: photos of one grey each, with one or two people."""

    def make(count: int, *, name: str = "photos", people: Any = None, **options: Any) -> Path:
        if people is None:
            people = [[person(np.tile([50 + i, 60, 2], (3, 1)))] * (1 + i % 2) for i in range(count)]
        return write_photos(tmp_path / name, grey_photos(count), [GREY_HW] * count, people, **options)

    return make


def tensors(batch: LabelledPhotos | UnlabelledBatch) -> Iterator[torch.Tensor]:
    for value in vars(batch).values():
        yield from (value,) if isinstance(value, torch.Tensor) else vars(value).values()


def bits(batch: LabelledPhotos | UnlabelledBatch) -> list[bytes]:
    return [tensor.contiguous().numpy().tobytes() for tensor in tensors(batch)]


def image_of(batch: Any) -> torch.Tensor:
    return batch.image if isinstance(batch, LabelledPhotos) else batch.weak


@LOADERS
@pytest.mark.parametrize(("steps", "rank", "world"), [(0, 0, 1), (7, 0, 1), (3, 1, 2)])
def test_resume_is_exact(
    make_photos: MakePhotos, tmp_path: Path, make: Any, steps: int, rank: int, world: int
) -> None:
    split = open_split(make_photos(13), "image")
    start = partial(make, split, VIEWS, batch_size=4, seed=5, process=ProcessInfo(rank, world))
    loader = start(settings=LoaderSettings(shuffle_buffer=6, prefetch=3))
    for _ in range(steps):
        next(loader)
    torch.save(loader.state_dict(), tmp_path / "state")
    expected = [bits(batch) for batch in islice(loader, 6)]
    resumed = start(settings=LoaderSettings(shuffle_buffer=6, prefetch=1, threads=1))
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert [bits(batch) for batch in islice(resumed, 6)] == expected


@LOADERS
def test_state_of_another_stream_is_refused(make_photos: MakePhotos, make: Any) -> None:
    split = open_split(make_photos(6), "image")
    state = make(split, VIEWS, batch_size=4, seed=0).state_dict()
    other_views = PhotoViewSettings(size=64, labelled=PhotoPolicy(shift=0), weak=PhotoPolicy(shift=0))
    with pytest.raises(InputError, match=r"differs from this one \(views\.labelled\.shown_min was 0\.8"):
        make(split, other_views, batch_size=4, seed=0).load_state_dict(state)
    other = {labelled_photo_loader: unlabelled_photo_loader}.get(make, labelled_photo_loader)
    with pytest.raises(InputError, match="stream was"):
        other(split, VIEWS, batch_size=4, seed=0).load_state_dict(state)


@LOADERS
def test_equal_shards_and_seeds_give_equal_batches(make_photos: MakePhotos, make: Any) -> None:
    folders = [make_photos(8), make_photos(8, name="again")]
    streams = [make(open_split(folder, "image"), VIEWS, batch_size=4, seed=3) for folder in folders]
    other = make(open_split(folders[0], "image"), VIEWS, batch_size=4, seed=4)
    for _ in range(4):
        one, two = (next(stream) for stream in streams)
        assert bits(one) == bits(two) != bits(next(other))


@LOADERS
def test_two_ranks_read_other_photos(make_photos: MakePhotos, make: Any) -> None:
    split = open_split(make_photos(11), "image")
    shown = []
    for rank in range(2):
        loader = make(split, VIEWS, batch_size=4, seed=0, process=ProcessInfo(rank, 2))
        shown.append({i for batch in islice(loader, 10) for i in shown_samples(image_of(batch))})
    assert shown == [set(range(5)), set(range(5, 11))]


@pytest.mark.parametrize("world", [1, 2, 20])
def test_every_photo_is_evaluated_once_and_in_order(make_photos: MakePhotos, world: int) -> None:
    split = open_split(make_photos(9), "image")
    names, shown = [], []
    for rank in range(world):
        loader = eval_photo_loader(split, VIEWS, batch_size=4, process=ProcessInfo(rank, world))
        for batch in loader:
            names += [record["file_name"] for record in batch.records]
            shown += shown_samples(batch.image)
    assert names == [f"{i:04d}.jpg" for i in range(9)]
    assert shown == list(range(9))


def poison(folder: Path) -> None:
    """Overwrite every pose record with NaN and every mask with ones; indices and manifest agree."""
    for shard in read_manifest(folder).shards:
        content = bytearray((folder / shard.file).read_bytes())
        for line in (folder / shard.idx_file).read_text().splitlines()[1:]:
            words = line.split()
            for extension, offset, size in zip(words[::4], words[1::4], words[2::4], strict=True):
                filler = {"pose": np.float32(np.nan).tobytes(), "mask": b"\xff", "json": b"x"}.get(extension)
                if filler:
                    count = int(size) // len(filler)
                    content[int(offset) : int(offset) + int(size)] = filler * count
        (folder / shard.file).write_bytes(content)
    agree(folder)


def agree(folder: Path) -> None:
    """Let the manifest hold the hashes of the tars and indices that are there."""
    manifest = read_manifest(folder)
    shards = []
    for shard in manifest.shards:
        sizes = {"bytes": (folder / shard.file).stat().st_size}
        hashes = [
            hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (shard.file, shard.idx_file)
        ]
        shards.append(dataclasses.replace(shard, **sizes, sha256=hashes[0], idx_sha256=hashes[1]))
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(shards)))


@pytest.mark.parametrize("way", ["folder", "pipe"])
def test_hidden_labels_are_not_read(make_photos: MakePhotos, way: str) -> None:
    sane, poisoned = make_photos(8), make_photos(8, name="poisoned")
    poison(poisoned)
    roots = [folder if way == "folder" else pipe_of(folder) for folder in (sane, poisoned)]
    settings = LoaderSettings(bad_samples=1)  # which decodes what was read once more
    streams = [
        unlabelled_photo_loader(open_split(root, "image"), VIEWS, batch_size=4, seed=0, settings=settings)
        for root in roots
    ]
    for _ in range(4):
        one, other = (next(stream) for stream in streams)
        assert bits(one) == bits(other)
    assert streams[1].num_lost == 0
    for stream in streams:
        stream.close()


def test_the_unlabelled_graph_opens_the_picture_alone(
    make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def read(reading: Any, ext: Any, dtypes: Any) -> Any:
        opened.append(list(ext))
        return original(reading, ext, dtypes)

    original = photo_graph.read
    monkeypatch.setattr(photo_graph, "read", read)
    split = open_split(make_photos(4), "image")
    next(unlabelled_photo_loader(split, VIEWS, batch_size=4, seed=0))
    assert opened == [["jpg"]]
    next(labelled_photo_loader(split, VIEWS, batch_size=4, seed=0))
    assert opened[1:] == [["jpg", "pose", "mask"]]


@pytest.mark.usefixtures("quick_retries")
@LOADERS
@pytest.mark.parametrize("way", ["http", "pipe"])
@pytest.mark.parametrize(("shuffle_buffer", "rank", "world"), [(6, 0, 1), (2048, 1, 3)])
def test_streamed_shards_give_the_batches_of_local_ones(
    make_photos: MakePhotos, make: Any, way: str, shuffle_buffer: int, rank: int, world: int
) -> None:
    folder = make_photos(17)
    with serve(folder) as server:
        options = {
            "process": ProcessInfo(rank, world),
            "settings": LoaderSettings(shuffle_buffer=shuffle_buffer),
        }
        roots = (folder, server.url if way == "http" else pipe_of(folder))
        here, there = (make(open_split(r, "image"), VIEWS, batch_size=4, seed=3, **options) for r in roots)
        for _ in range(9):
            assert bits(next(here)) == bits(next(there))
        state = there.state_dict()
        expected = bits(next(there))
        there.close()
        again = make(open_split(roots[1], "image"), VIEWS, batch_size=4, seed=3, **options)
        again.load_state_dict(state)
        assert bits(next(again)) == expected
        again.close()


def test_a_streamed_pass_evaluates_what_a_local_one_does(make_photos: MakePhotos) -> None:
    folder = make_photos(9)
    here, there = (
        list(eval_photo_loader(open_split(root, "image"), VIEWS, batch_size=4))
        for root in (folder, pipe_of(folder))
    )
    assert [batch.records for batch in here] == [batch.records for batch in there]
    assert all(torch.equal(a.image, b.image) for a, b in zip(here, there, strict=True))


def replace_member(folder: Path, name: str, payload: bytes) -> None:
    """Give one member another payload of any size; index and manifest agree."""
    for shard in read_manifest(folder).shards:
        tar = folder / shard.file
        members = members_of(tar)
        if any(member == name for member, _ in members):
            write_tar(tar, [(member, payload if member == name else content) for member, content in members])
            build_index(tar)
    agree(folder)


@pytest.mark.parametrize(
    ("member", "payload", "says"),
    [
        ("000000009.jpg", b"no photo", r"000000009\.jpg cannot be decoded"),
        ("000000009.pose", bytes(8 + 4 * 5), r"000000009\.jpg cannot be decoded \(a pose record of 28 bytes"),
        ("000000009.pose", np.array([1, 0, *range(19)], "<f4").tobytes(), "belong to another skeleton"),
        ("000000009.pose", np.array([np.nan, 0], "<f4").tobytes(), "000000009.jpg cannot be decoded"),
        ("000000009.pose", np.array([1e30, 0], "<f4").tobytes(), "000000009.jpg cannot be decoded"),
        ("000000009.mask", bytes(2000), r"cannot be decoded \(a mask has 2000 bytes instead of 2048"),
    ],
)
def test_a_damaged_sample_is_named(make_photos: MakePhotos, member: str, payload: bytes, says: str) -> None:
    folder = make_photos(12)
    replace_member(folder, member, payload)
    with pytest.raises(InputError, match=says) as error:
        list(islice(labelled_photo_loader(open_split(folder, "image"), VIEWS, batch_size=4, seed=0), 12))
    assert "build them again" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_lost_photo_is_left_out_of_a_stream(make_photos: MakePhotos) -> None:
    folder = make_photos(9)
    replace_member(folder, "000000004.jpg", b"no photo")
    settings = LoaderSettings(bad_samples=1)
    for make in (labelled_photo_loader, unlabelled_photo_loader):
        loader = make(open_split(pipe_of(folder), "image"), VIEWS, batch_size=4, seed=0, settings=settings)
        with pytest.warns(UserWarning, match=r"000000004\.jpg cannot be decoded .*1 lost"):
            shown = {i for batch in islice(loader, 8) for i in shown_samples(image_of(batch))}
        assert shown == set(range(9)) - {4}
        loader.close()


def test_the_wrong_kind_is_refused(make_photos: MakePhotos, make_shards: MakeShards) -> None:
    with pytest.raises(InputError, match=r"are whole photos, .*: build the shards again with kind=person$"):
        open_split(make_photos(2))
    with pytest.raises(
        InputError, match=r"are single people, .*: build the shards again with kind=image crop\.name=none$"
    ):
        open_split(make_shards(grey_photos(2)), "image")


class TestSplits:
    @pytest.fixture
    def folder(self, make_photos: MakePhotos) -> Path:
        """30 photos: 20 with annotated people, and ten without (they come last)."""
        return make_photos(30, people=self.people())

    def people(self) -> list[list[dict[str, Any]]]:
        """Of every third photo a crowd, a person without keypoints, or nobody."""
        annotated = person(np.tile([50, 60, 2], (3, 1)))
        nobody = [[annotated | {"iscrowd": 1}], [person(np.zeros((3, 3)))], []]
        return [nobody[i // 3 % 3] if i % 3 == 2 else [annotated] for i in range(30)]

    def names(self, split: Any) -> list[str]:
        return [
            record["file_name"] for b in eval_photo_loader(split, VIEWS, batch_size=8) for record in b.records
        ]

    def test_count_takes_the_first_photos_with_people(self, folder: Path, tmp_path: Path) -> None:
        whole = open_split(folder, "image")
        labelled = labelled_split(whole, 5, index_dir=tmp_path / "run")
        assert labelled.annotation_ids == (1, 2, 4, 5, 7)
        assert self.names(labelled) == ["0000.jpg", "0001.jpg", "0003.jpg", "0004.jpg", "0006.jpg"]
        assert labelled_split(whole, "all", index_dir=tmp_path / "run").num_samples == 20
        with pytest.raises(InputError, match="30 samples, 20 of them with an annotated keypoint"):
            labelled_split(whole, 21, index_dir=tmp_path / "run")

    @pytest.mark.parametrize("fold", [0, 1])
    def test_share_takes_the_smallest_hashes(self, folder: Path, tmp_path: Path, fold: int) -> None:
        whole = open_split(folder, "image")
        names = [f"{i:04d}.jpg" for i in range(30) if i % 3 != 2]
        ranked = sorted(names, key=lambda name: hashlib.sha256(f"{fold}/{name}".encode()).hexdigest())
        for share, count in ((0.05, 1), (0.1, 2), (0.4, 8), (0.43, 9), (1.0, 20)):
            labelled = labelled_share(whole, share, fold=fold, index_dir=tmp_path / f"{share}")
            assert self.names(labelled) == sorted(ranked[:count])

    def test_folds_differ_and_larger_shares_contain_smaller_ones(self, folder: Path, tmp_path: Path) -> None:
        whole = open_split(folder, "image")
        choose = partial(labelled_share, whole, index_dir=tmp_path)
        chosen = [set(choose(0.3, fold=fold).ordinals) for fold in range(5)]
        assert len({frozenset(fold) for fold in chosen}) == 5
        for share in (0.1, 0.2):
            assert set(choose(share, fold=3).ordinals) < chosen[3]

    def test_the_choice_does_not_depend_on_the_order_of_photos(
        self, make_photos: MakePhotos, folder: Path, tmp_path: Path
    ) -> None:
        other = make_photos(30, name="shuffled", people=self.people(), order="shuffle", seed=3)
        chosen = [
            set(self.names(labelled_share(open_split(f, "image"), 0.4, fold=2, index_dir=tmp_path / f.name)))
            for f in (folder, other)
        ]
        assert chosen[0] == chosen[1]

    def test_rest(self, folder: Path, tmp_path: Path) -> None:
        whole = open_split(folder, "image")
        labelled = labelled_share(whole, 0.4, fold=0, index_dir=tmp_path)
        rest = unlabelled_split(whole, without=labelled, index_dir=tmp_path / "rest")
        assert set(rest.ordinals) == set(range(30)) - set(labelled.ordinals)
        shown = self.names(
            unlabelled_split(whole, without=labelled, only_annotated=True, index_dir=tmp_path / "p")
        )
        assert len(shown) == 12
        assert not set(shown) & set(self.names(labelled))
        assert all(int(name[:4]) % 3 != 2 for name in shown)

    @pytest.mark.parametrize("share", [0.0, 0.02, 1.1, -0.5])
    def test_impossible_shares(self, folder: Path, tmp_path: Path, share: float) -> None:
        with pytest.raises(InputError, match=rf"labelled_share = {share} is -?\d+ of the 20 photos"):
            labelled_share(open_split(folder, "image"), share, fold=0, index_dir=tmp_path)

    def test_people_have_no_share(self, make_shards: MakeShards, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="a labelled share counts whole photos"):
            labelled_share(open_split(make_shards(grey_photos(3))), 0.5, fold=0, index_dir=tmp_path)

    def test_photos_without_people_cannot_be_labelled(self, make_photos: MakePhotos, tmp_path: Path) -> None:
        whole = open_split(make_photos(3, people=[[]] * 3), "image")
        for choose in (
            partial(labelled_split, whole, 1, index_dir=tmp_path),
            partial(labelled_share, whole, 0.5, fold=0, index_dir=tmp_path),
        ):
            with pytest.raises(InputError, match="none of the 3 samples has an annotated keypoint"):
                choose()


@pytest.mark.parametrize("name", ["coco", "crowdpose"])
def test_real_photos(shared_data: Path, tmp_path: Path, name: str) -> None:
    """People of every batch lead back to those of one photo of the file, in their order."""
    folder = shared_data / name
    source: Any = {
        "coco": lambda: CocoFormat(
            annotations=folder / "annotations" / "person_keypoints_val2017_joined.json",
            images=folder / "images" / "val2017",
        ),
        "crowdpose": lambda: CrowdPoseFormat(
            annotations=folder / "test_crowdpose.json", images=folder / "images"
        ),
    }[name]()
    output = tmp_path / "shards"
    settings = BuildSettings(
        source=source, output=output, kind="image", crop=WholePhoto(), limit=40, workers=1
    )
    build(settings, console=Console(quiet=True))
    split = open_split(output, "image")
    truth: dict[int, list[Any]] = {}
    for person_ in source.read().persons:
        truth.setdefault(person_.image_id, []).append(person_.keypoints)
    records = [json.loads(members["json"]) for _, members in stored_samples(output)]
    loader = labelled_photo_loader(split, PhotoViewSettings(size=128), batch_size=8, seed=0)
    order = torch.tensor(split.skeleton.flip_order)
    num_people = 0
    for batch in islice(loader, 5):
        people = batch.people
        mirrored = torch.linalg.det(batch.ignored.stored_from_view[..., :2]) < 0
        for row in range(8):
            count = int(people.is_person[row].sum())
            points = people.points_xy[row, :count].flatten(0, 1)[None]
            stored = geometry.apply(batch.ignored.stored_from_view[row][None], points).view(count, -1, 2)
            visible = people.visible[row, :count]
            if mirrored[row]:
                stored, visible = stored[:, order], visible[:, order]
            size_wh = batch.ignored.stored_hw[row].flip(-1).int().tolist()
            matches = 0
            for record in records:
                expected = np.array(truth[record["image_id"]])
                if record["source_size"] == size_wh and len(expected) == count:
                    marked = expected[..., 2] > 0
                    if np.array_equal(marked, visible.numpy() > 0):
                        matches += np.allclose(stored.numpy()[marked], expected[marked, :2], atol=0.02)
            assert matches == 1
            num_people += count
    assert num_people > 40


def test_a_stream_of_one_photo_fills_a_batch(tmp_path: Path) -> None:
    jpeg = encode(np.full((40, 60, 3), 90, np.uint8))
    folder = write_photos(tmp_path / "one", [jpeg], [(40, 60)], [[person(np.tile([20, 20, 2], (3, 1)))]])
    batch = next(labelled_photo_loader(open_split(folder, "image"), VIEWS, batch_size=8, seed=0))
    assert batch.people.points_xy.shape == (8, 1, 3, 2)
    assert len(torch.unique(batch.ignored.stored_from_view.flatten(1), dim=0)) == 8
