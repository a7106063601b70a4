"""Keypoints that nobody annotated, for a run that learns them from another source."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.more_keypoints import more_keypoints
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton
from semipose.sharding.build import build
from semipose.sharding.check.verify import VerifySettings, verify
from tests.sharding.conftest import SmallSet

MakeSet = Callable[..., SmallSet]
RACKET = Skeleton(
    names=("racket_tip", "racket_grip", "right_wrist"),
    flip_pairs=(),
    bones=((0, 1),),
    sigmas=(0.03, 0.04, 0.062),
)


def test_added_keypoints_have_mirror_pairs_bones_and_published_sigmas_of_their_names():
    skeleton = more_keypoints(RACKET, ["left_elbow", "right_elbow", "nose"])

    assert skeleton.names == (*RACKET.names, "left_elbow", "right_elbow", "nose")
    assert skeleton.flip_pairs == ((3, 4),)
    assert skeleton.sigmas == (0.03, 0.04, 0.062, 0.072, 0.072, 0.026)
    assert {frozenset(bone) for bone in skeleton.bones} == {frozenset((0, 1)), frozenset((2, 4))}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["RWrist"], "RWrist would be there twice"),
        (["nose", "nose"], "nose would be there twice"),
        (["left_knee"], "'left_knee' has no partner on the other side: add both"),
    ],
)
def test_keypoints_that_are_there_or_have_no_partner_are_refused(names: list[str], message: str):
    with pytest.raises(InputError, match=message):
        more_keypoints(RACKET, names)


def test_shards_with_more_keypoints_keep_the_annotated_ones_and_pass_their_check(
    make_set: MakeSet, tmp_path: Path, quiet: Console
):
    small = make_set()
    plain = build(small.settings(tmp_path / "plain"), console=quiet)

    more = build(small.settings(tmp_path / "more", more_keypoints=("tail", "neck")), console=quiet)

    assert more.skeleton.names == (*COCO_17.names, "tail", "neck")
    assert more.settings_sha256 != plain.settings_sha256
    rows = [json.loads((tmp_path / name / "ground_truth.json").read_bytes()) for name in ("plain", "more")]
    for before, after in zip(*(each["annotations"] for each in rows), strict=True):
        assert after["keypoints"] == [*before["keypoints"], *[0.0] * 6]
        assert after["num_keypoints"] == before["num_keypoints"]
    verify(VerifySettings(verify=tmp_path / "more", workers=1), console=quiet)
