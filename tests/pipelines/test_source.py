"""Which samples a split chooses, and what it says when it cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.pipelines.source import hidden_split, labelled_split, open_split, unlabelled_split
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


def test_hidden_samples_are_spread_and_never_labelled(
    grey_shards: Callable[[int], Path], tmp_path: Path
) -> None:
    whole = open_split(grey_shards(20))
    labelled = labelled_split(whole, 8, index_dir=tmp_path / "run")
    rest = unlabelled_split(whole, without=labelled, index_dir=tmp_path / "run")
    for unlabelled in (whole, rest):  # the labelled ones are among the first, and not among the second
        hidden = hidden_split(unlabelled, labelled, 4, index_dir=tmp_path / "run")
        assert hidden is not None
        assert hidden.ordinals == (8, 11, 14, 17)
        assert [pose.keypoints.shape for pose in hidden.poses()] == [(1, 3, 3)] * 4
    every = hidden_split(whole, labelled, 64, index_dir=tmp_path / "run")
    assert every is not None
    assert every.ordinals == rest.ordinals
    assert hidden_split(whole, labelled, 0, index_dir=tmp_path / "run") is None
    assert hidden_split(whole, whole, 4, index_dir=tmp_path / "run") is None


def test_hidden_samples_of_a_stream_are_those_of_one_tar(
    grey_shards: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = grey_shards(20)
    whole, streamed = open_split(folder), open_split(f"pipe:cat {folder}/{{file}}")
    labelled = labelled_split(streamed, 9, index_dir=tmp_path / "run")
    hidden = hidden_split(streamed, labelled, 4, index_dir=tmp_path / "run")
    assert hidden is not None
    assert [Path(tar).name for tar in hidden.tars] == [hidden.tars[0].rsplit("/", 1)[-1]]
    first, *_ = whole.parts([9])
    assert {part.tar.rsplit("/", 1)[-1] for part in hidden.parts(range(hidden.num_samples))} == {
        Path(first.tar).name
    }


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
    ("labelled", "says"), [(6, "data.labelled = 6, but .* holds 5 samples"), (0, "at least one")]
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
