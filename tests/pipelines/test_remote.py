"""Shards behind a web server or a command give the batches of a local folder, bit for bit."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError
from semipose.pipelines import stream
from semipose.pipelines.loader import (
    LoaderSettings,
    ProcessInfo,
    eval_loader,
    labelled_loader,
    unlabelled_loader,
)
from semipose.pipelines.source import labelled_split, open_split, unlabelled_split
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from tests.pipelines.conftest import PEOPLE
from tests.pipelines.servers import FileServer, pipe_of
from tests.pipelines.test_loader import LOADERS, VIEWS, bits, shown_samples

pytestmark = pytest.mark.usefixtures("quick_retries")


def assert_same(here: Iterator[Any], there: Iterator[Any], num_batches: int = 13) -> None:
    for _ in range(num_batches):
        assert bits(next(here)) == bits(next(there))


@LOADERS
@pytest.mark.parametrize(("shuffle_buffer", "rank", "world"), [(1, 0, 1), (6, 0, 1), (2048, 1, 3)])
def test_streams_equal_local_shards(
    people_folder: Path, root: str, make: Any, shuffle_buffer: int, rank: int, world: int
) -> None:
    """Through several passes, in the same shuffled order, with the same views drawn."""
    options = {"process": ProcessInfo(rank, world), "settings": LoaderSettings(shuffle_buffer=shuffle_buffer)}
    here, there = (make(open_split(r), VIEWS, batch_size=4, seed=3, **options) for r in (people_folder, root))
    assert_same(here, there)
    there.close()


@pytest.mark.parametrize("world", [1, 3, 20])
def test_streams_are_scored_as_local_shards(people_folder: Path, root: str, world: int) -> None:
    here, there = open_split(people_folder), open_split(root)
    for rank in {0, world // 2, world - 1}:
        pass_ = partial(eval_loader, views=VIEWS, batch_size=4, process=ProcessInfo(rank, world))
        loader = pass_(there)
        for _ in range(2 if world == 1 else 1):  # a second pass is as good as the first
            batches = list(loader)
            expected = list(pass_(here))
            assert [batch.records for batch in batches] == [batch.records for batch in expected]
            assert all(torch.equal(a.image, b.image) for a, b in zip(batches, expected, strict=True))


def test_subsets_of_streams(people_folder: Path, root: str, server: FileServer, tmp_path: Path) -> None:
    """Chosen by their places, as in a local folder; tars without a chosen sample are not asked for."""
    found = []
    for at in (people_folder, root):
        whole = open_split(at)
        labelled = labelled_split(whole, 5, index_dir=tmp_path)
        server.requests.clear()
        few = labelled_loader(labelled, VIEWS, batch_size=4, seed=0)
        found.append((labelled.ids_sha256, [bits(batch) for batch in islice(few, 5)]))
        few.close()
        assert {name for _, name in server.requests} <= {"test-000000.tar"}
        rest = unlabelled_split(whole, without=labelled, index_dir=tmp_path)
        many = unlabelled_loader(rest, VIEWS, batch_size=8, seed=0)
        assert {i for batch in islice(many, 8) for i in shown_samples(batch.weak)} == set(range(5, PEOPLE))
        many.close()
    assert found[0] == found[1]


@LOADERS
@pytest.mark.parametrize(("steps", "rank", "world"), [(0, 0, 1), (2, 0, 1), (9, 0, 1), (5, 1, 2)])
def test_resumed_stream_is_exact(people_folder: Path, make: Any, steps: int, rank: int, world: int) -> None:
    """From the middle of the first and of a later pass, whatever was prefetched."""
    split = open_split(pipe_of(people_folder))
    start = partial(make, split, VIEWS, batch_size=4, seed=5, process=ProcessInfo(rank, world))
    loader = start(settings=LoaderSettings(shuffle_buffer=6, prefetch=3))
    for _ in range(steps):
        next(loader)
    state = loader.state_dict()
    expected = [bits(batch) for batch in islice(loader, 6)]
    resumed = start(settings=LoaderSettings(shuffle_buffer=6, prefetch=1, threads=1))
    resumed.load_state_dict(state)
    assert [bits(batch) for batch in islice(resumed, 3)] == expected[:3]
    resumed.close()  # and goes on
    assert [bits(batch) for batch in islice(resumed, 3)] == expected[3:]


@pytest.mark.filterwarnings("ignore:.*opened again")
def test_no_curl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CURL", "no-such-program")
    with pytest.raises(
        InputError, match=r"dataset\.json: the file cannot be read \(curl: it is not installed"
    ):
        open_split("http://127.0.0.1:9/shards")


def test_state_of_the_other_reader_is_refused(people_folder: Path) -> None:
    roots = (people_folder, pipe_of(people_folder))
    here, there = (labelled_loader(open_split(root), VIEWS, batch_size=4, seed=0) for root in roots)
    with pytest.raises(InputError, match=r"differs from this one \(reader was dali and is stream"):
        there.load_state_dict(here.state_dict())


@pytest.mark.filterwarnings("ignore:.*opened again")
@pytest.mark.parametrize(
    ("root", "says"),
    [
        (
            "http://127.0.0.1:9/shards",
            r"http://127.0.0.1:9/shards/dataset.json: the file cannot be read \(curl: no connection",
        ),
        (
            "pipe:false {file}",
            r"pipe:false dataset.json: the file cannot be read \(its command ended with status 1",
        ),
        ("pipe:cat shards", r"the command must name the file to print as \{file\}"),
        ("pipe:echo [] # {file}", r"dataset.json: this is no manifest"),
        ("ftp://host/shards", r"ftp://host/shards: shards are read from folders, s3://"),
        ("nowhere", r"nowhere: no such folder"),
    ],
)
def test_wrong_places(root: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        open_split(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../secret.tar", "a;rm x.tar", "$(id).tar"])
def test_names_that_would_leave_the_folder_or_the_command(people_folder: Path, name: str) -> None:
    manifest = json.loads((people_folder / "dataset.json").read_text())
    manifest["shards"][0]["file"] = name
    del manifest["sha256"]  # as an attacker may, and older builds wrote none
    (people_folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"shards\.0\.file|cannot be part of a command"):
        open_split(pipe_of(people_folder))


@pytest.mark.parametrize("name", ["test-000001.idx", "ground_truth.json"])
def test_altered_small_file_is_named(people_folder: Path, root: str, name: str) -> None:
    path = people_folder / name
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match=rf"{name}: .*(does not belong to|altered)") as error:
        open_split(root)
    assert str(error.value).startswith(("http://", "pipe:"))


def test_ids_are_those_of_the_cards(tmp_path: Path) -> None:
    """`annotation_ids` comes from the ground truth: its order must be that of the shards."""
    source = DrawnFormat(folder=tmp_path / "drawn", people=12)
    settings = BuildSettings(source=source, output=tmp_path / "s", order="shuffle", samples_per_shard=5)
    build(settings, console=Console(quiet=True))
    split = open_split(tmp_path / "s")
    scored = eval_loader(split, VIEWS, batch_size=5)
    assert list(split.annotation_ids) == [record["id"] for batch in scored for record in batch.records]
