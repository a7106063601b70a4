"""Which samples a split chooses, and what it says when it cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.pipelines.source import labelled_split, open_split, unlabelled_split
from tests.pipelines.conftest import MakeShards, grey_photos


def test_first_n_are_labelled_and_the_rest_is_not(grey_shards: Callable[[int], Path], tmp_path: Path) -> None:
    whole = open_split(grey_shards(20))
    labelled = labelled_split(whole, 9, index_dir=tmp_path / "run")
    rest = unlabelled_split(whole, without=labelled, index_dir=tmp_path / "run")
    assert labelled.annotation_ids == tuple(range(100, 109))
    assert rest.annotation_ids == tuple(range(109, 120))
    assert unlabelled_split(whole, index_dir=tmp_path / "run").annotation_ids == tuple(range(100, 120))


def test_shards_without_a_chosen_sample_are_left_out(
    grey_shards: Callable[[int], Path], tmp_path: Path
) -> None:
    whole = open_split(grey_shards(20))
    labelled = labelled_split(whole, 7, index_dir=tmp_path / "run")
    assert [Path(tar).name for tar in labelled.tars] == ["test-000000.tar"]
    assert [
        Path(tar).name for tar in unlabelled_split(whole, without=labelled, index_dir=tmp_path / "run").tars
    ] == [
        "test-000001.tar",
        "test-000002.tar",
    ]


def test_random_subset_follows_its_seed(grey_shards: Callable[[int], Path], tmp_path: Path) -> None:
    whole = open_split(grey_shards(20))
    draws = [
        labelled_split(whole, 8, subset_seed=seed, index_dir=tmp_path / f"{i}")
        for i, seed in enumerate((3, 3, 4))
    ]
    ids = [draw.annotation_ids for draw in draws]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 8
    assert ids[0] != tuple(range(100, 108))
    assert draws[0].ids_sha256 == draws[1].ids_sha256 != draws[2].ids_sha256


def test_all_labelled(grey_shards: Callable[[int], Path], tmp_path: Path) -> None:
    whole = open_split(grey_shards(5))
    labelled = labelled_split(whole, "all", index_dir=tmp_path / "run")
    assert labelled.num_samples == 5
    with pytest.raises(InputError, match=r"all 5 samples of .* are labelled"):
        unlabelled_split(whole, without=labelled, index_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("labelled", "says"), [(6, "labelled = 6, but .* holds 5 samples"), (0, "at least one")]
)
def test_impossible_counts(
    grey_shards: Callable[[int], Path], tmp_path: Path, labelled: int, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        labelled_split(open_split(grey_shards(5)), labelled, index_dir=tmp_path / "run")


class TestPeopleWithoutAMark:
    """Samples 0, 3, 6, ... of 20 have coordinates, but no keypoint with v > 0."""

    @pytest.fixture
    def folder(self, make_shards: MakeShards) -> Path:
        keypoints = np.tile([[85.0, 110.0, 2.0]], (20, 3, 1))
        keypoints[::3, :, 2] = 0
        return make_shards(grey_photos(20), keypoints=keypoints)

    @pytest.mark.parametrize("subset_seed", [None, 0, 1])
    @pytest.mark.parametrize("labelled", [1, 8, 13, "all"])
    def test_are_never_labelled(
        self, folder: Path, tmp_path: Path, labelled: int, subset_seed: int | None
    ) -> None:
        whole = open_split(folder)
        chosen = labelled_split(whole, labelled, subset_seed=subset_seed, index_dir=tmp_path / "run")
        marked = [place for place in range(20) if place % 3]
        assert chosen.num_samples == (13 if labelled == "all" else labelled)
        assert set(chosen.ordinals) <= set(marked)
        if subset_seed is None:
            assert list(chosen.ordinals) == marked[: chosen.num_samples]
        rest = unlabelled_split(whole, without=chosen, index_dir=tmp_path / "run")
        assert set(rest.ordinals) == set(range(20)) - set(chosen.ordinals)

    def test_do_not_count_among_those_that_are_there(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="holds 20 samples, 13 of them with an annotated keypoint: lower"
        ):
            labelled_split(open_split(folder), 14, index_dir=tmp_path / "run")

    def test_alone_are_refused(self, make_shards: MakeShards, tmp_path: Path) -> None:
        folder = make_shards(grey_photos(5), keypoints=np.zeros((5, 3, 3)))
        for labelled in (1, "all"):
            with pytest.raises(InputError, match="none of the 5 samples has an annotated keypoint"):
                labelled_split(open_split(folder), labelled, index_dir=tmp_path / "run")


def test_altered_shard_is_refused(grey_shards: Callable[[int], Path]) -> None:
    folder = grey_shards(5)
    tar = folder / "test-000000.tar"
    content = bytearray(tar.read_bytes())
    content[1000] ^= 255
    tar.write_bytes(content)
    with pytest.raises(InputError, match=r"test-000000.tar: the shard was altered"):
        open_split(folder)
    tar.write_bytes(content[:-512])
    with pytest.raises(InputError, match=r"test-000000.tar: the shard was cut short"):
        open_split(folder)
