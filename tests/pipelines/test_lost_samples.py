"""Streams that break or bring damaged samples: opened again, bounded, named, never silent."""

import json
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from semipose.configs.load import InputError
from semipose.pipelines.loader import LoaderSettings, TrainLoader, eval_loader, labelled_loader
from semipose.pipelines.source import Split, open_split
from semipose.sharding.store.index import read_index
from tests.pipelines.conftest import PEOPLE
from tests.pipelines.servers import FileServer, cut, pipe_of, swap
from tests.pipelines.test_loader import VIEWS, bits, shown_samples

pytestmark = pytest.mark.usefixtures("quick_retries")


def stream_of(split: Split, **settings: int) -> TrainLoader[Any]:
    return labelled_loader(
        split, VIEWS, batch_size=4, seed=0, settings=LoaderSettings(shuffle_buffer=3, **settings)
    )


def first_batches(root: str | Path) -> list[list[bytes]]:
    loader = stream_of(open_split(root))
    batches = [bits(next(loader)) for _ in range(9)]
    assert loader.num_lost == 0
    loader.close()
    return batches


def test_broken_connection_is_taken_up_again(people_folder: Path, server: FileServer) -> None:
    server.breaks = {"dataset.json": 9, "test-000001.idx": 9, "test-000001.tar": 9_000, "test-000000.tar": 0}
    with pytest.warns(UserWarning, match="opened again") as said:
        shown = first_batches(server.url)
    assert len(said) == 4
    assert not server.breaks
    assert shown == first_batches(people_folder)


def drop_last_member(tar: Path) -> None:
    last = read_index(tar.with_suffix(".idx"))[-1][-1]
    tar.write_bytes(tar.read_bytes()[: last.offset - 512])


@pytest.mark.filterwarnings("ignore:.*opened again")
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            Path.unlink,
            r"it broke off before 000000007\.jpg \((curl: the server answered|its command ended with)",
        ),
        (drop_last_member, r"it (ended|broke off) before 000000013\.json"),
        (cut, r"it broke off before 0000000\d+\.\w+"),
        (swap, r"it has 000000000\.jpg .* where the index has 000000007\.jpg"),
    ],
)
def test_stream_that_gives_less_than_the_manifest_is_named(
    people_folder: Path, root: str, fault: Callable[[Path], None], says: str
) -> None:
    loader = stream_of(open_split(root))
    fault(people_folder / "test-000001.tar")
    with pytest.raises(InputError, match=rf"test-000001\.tar: {says}.*loader\.bad_samples = 0"):
        list(islice(loader, 10))
    scored = eval_loader(open_split(root), VIEWS, batch_size=4, settings=LoaderSettings(bad_samples=99))
    with pytest.raises(InputError, match=r"test-000001\.tar: "):  # no sample may lack in a score
        list(scored)


def damage_photos(people_folder: Path, places: dict[str, list[int]]) -> None:
    for name, in_tar in places.items():
        content = bytearray((people_folder / name).read_bytes())
        for place in in_tar:
            jpg = read_index(people_folder / name.replace(".tar", ".idx"))[place][0]
            content[jpg.offset : jpg.offset + jpg.size] = bytes(jpg.size)
        (people_folder / name).write_bytes(content)


def test_damaged_photos_are_left_out_and_named(people_folder: Path) -> None:
    """As many as allowed, in each pass, with a warning each; a resumed stream leaves out the same."""
    split = open_split(pipe_of(people_folder))
    damage_photos(people_folder, {"test-000000.tar": [0, 3], "test-000002.tar": [2]})
    loader = stream_of(split, bad_samples=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = [next(loader) for _ in range(6)]
        state = loader.state_dict()
        batches += [next(loader) for _ in range(6)]
    shown = {i for batch in batches for i in shown_samples(batch.image)}
    assert shown == set(range(PEOPLE)) - {0, 3, 16}
    said = [str(warning.message) for warning in caught]
    assert len(said) == loader.num_lost == 3
    assert "test-000000.tar: 000000000.jpg cannot be decoded" in said[0]
    assert "3 in total of 3 allowed" in said[-1]
    resumed = stream_of(split, bad_samples=3)
    resumed.load_state_dict(json.loads(json.dumps({**state, "dali": None})) | {"dali": state["dali"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is lost is not asked for again
        assert [bits(next(resumed)) for _ in range(6)] == [bits(batch) for batch in batches[6:]]


def test_one_more_damaged_photo_than_allowed(people_folder: Path) -> None:
    split = open_split(pipe_of(people_folder))
    damage_photos(people_folder, {"test-000001.tar": [1, 3]})
    with (
        pytest.warns(UserWarning, match=r"8\.jpg cannot be decoded .*1 in total of 1 allowed"),
        pytest.raises(
            InputError, match=r"test-000001\.tar: 000000010\.jpg .*2 in total, but .*bad_samples = 1"
        ),
    ):
        list(islice(stream_of(split, bad_samples=1), 10))
    with pytest.raises(InputError, match=r"test-000001\.tar: 0000000(08|10)\.jpg cannot be decoded"):
        list(islice(stream_of(split), 10))  # none allowed: DALI finds it


@pytest.mark.filterwarnings("ignore:.*opened again")
def test_lost_tar_counts_by_its_samples(people_folder: Path) -> None:
    split = open_split(pipe_of(people_folder))
    (people_folder / "test-000001.tar").unlink()
    loader = stream_of(split, bad_samples=7)
    with pytest.warns(UserWarning, match=r"test-000001\.tar: .*: 7 lost, 7 in total of 7 allowed"):
        shown = {i for batch in islice(loader, 12) for i in shown_samples(batch.image)}
    assert shown == set(range(PEOPLE)) - set(range(7, 14))
    with pytest.raises(InputError, match=r"test-000001\.tar: .*7 in total, but loader\.bad_samples = 6"):
        list(islice(stream_of(split, bad_samples=6), 10))
