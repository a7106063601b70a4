import pytest

from configs.load import InputError
from sharding.skeleton import (
    AIC_14,
    COCO_17,
    CROWDPOSE_14,
    DEFAULT_SIGMA,
    LSP_14,
    MPII_16,
    from_category,
    to_category,
)

KNOWN_SETS = {"coco": COCO_17, "lsp": LSP_14, "mpii": MPII_16, "aic": AIC_14, "crowdpose": CROWDPOSE_14}


@pytest.mark.parametrize("skeleton", KNOWN_SETS.values(), ids=KNOWN_SETS)
class TestKnownSets:
    def test_flip_order_swaps_left_and_right_names(self, skeleton):
        swapped = [skeleton.names[index] for index in skeleton.flip_order]
        assert swapped == [_mirrored(name) for name in skeleton.names]

    def test_category_round_trip(self, skeleton):
        assert from_category(to_category(skeleton), where="f") == skeleton

    def test_pairs_follow_from_names(self, skeleton):
        category = to_category(skeleton)
        del category["flip_pairs"]
        assert from_category(category, where="f") == skeleton

    def test_bones_join_all_keypoints_and_mirror_into_bones(self, skeleton):
        bones = {frozenset(bone) for bone in skeleton.bones}
        assert {index for bone in bones for index in bone} == set(range(skeleton.num_keypoints))
        assert {frozenset(skeleton.flip_order[index] for index in bone) for bone in bones} == bones

    def test_sigmas_are_the_same_on_both_sides(self, skeleton):
        if skeleton is not AIC_14:  # the challenge has measured each side
            mirrored = [skeleton.sigmas[index] for index in skeleton.flip_order]
            assert mirrored == list(skeleton.sigmas)


@pytest.mark.parametrize("skeleton", [COCO_17, LSP_14], ids=["coco", "lsp"])
def test_sigmas_follow_from_names(skeleton):
    category = to_category(skeleton)
    del category["sigmas"]
    assert from_category(category, where="f") == skeleton


def _mirrored(name: str) -> str:
    if name.startswith("left"):
        return "right" + name[4:]
    return "left" + name[5:] if name.startswith("right") else name


def test_coco_constants_equal_pycocotools():
    from pycocotools.cocoeval import Params

    assert COCO_17.sigmas == pytest.approx(Params("keypoints").kpt_oks_sigmas)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["L_hip", "R_hip", "tail"], ((0, 1),)),
        (["hip_l", "hip_r"], ((0, 1),)),
        (["knee-right", "knee-left", "left wing", "right wing"], ((0, 1), (2, 3))),
        (["LeftEye", "RightEye", "rear", "lens"], ((0, 1),)),
        (["LShoulder", "RShoulder", "LBigToe", "RBigToe"], ((0, 1), (2, 3))),
        (["eye-left", "Left Ankle", "Right Ankle", "eye-right"], ((0, 3), (1, 2))),
        (["hand.R", "hand.L", "front_left_paw", "front_right_paw"], ((0, 1), (2, 3))),
        (["frontLeftPaw", "frontRightPaw", "LEFT_EAR", "RIGHT_EAR"], ((0, 1), (2, 3))),
        (["left_brow", "RBrow", "leftknee", "right knee"], ((0, 1), (2, 3))),
        (["left_paw", "right_paw", "rpaw"], ((0, 1),)),
        (["LKnee", "Rknee", "lhip", "rhip", "kneeleft", "kneeright"], ((0, 1), (2, 3), (4, 5))),
        (["L1", "R1", "L2", "upright", "bright", "lip", "root"], ((0, 1),)),
        (["左肩", "右肩", "1", "2"], ()),
        (["left_hand_left", "right_hand_right"], ((0, 1),)),
    ],
)
def test_mirror_names(names, pairs):
    skeleton = from_category({"keypoints": names}, where="f")
    assert skeleton.flip_pairs == pairs
    assert skeleton.sigmas == (DEFAULT_SIGMA,) * len(names)
    assert skeleton.bones == ()


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ({"name": "cat"}, "keypoints"),
        ({"name": "cat", "keypoints": ["a", "a"]}, "distinct"),
        (
            {"name": "cat", "keypoints": ["left_eye", "nose"]},
            "'left_eye' has no partner .*`flip_pairs`",
        ),
        ({"name": "cat", "keypoints": ["eye.R", "nose"]}, "'eye.R' has no partner"),
        ({"name": "cat", "keypoints": ["LEye", "left_eye", "r_eye"]}, "'r_eye' has 'LEye' and 'left_eye'"),
        ({"name": "cat", "keypoints": ["a", "b"], "skeleton": [[0, 1]]}, "0..1"),
        ({"name": "cat", "keypoints": ["a", "b"], "sigmas": [0.1]}, "2 sigmas"),
        ({"name": "cat", "keypoints": ["a", "b", "c"], "flip_pairs": [[0, 1], [1, 2]]}, "two flip pairs"),
    ],
)
def test_bad_category_is_one_sentence_with_the_file(category, words):
    with pytest.raises(InputError, match=words) as error:
        from_category(category, where="train.json")
    assert str(error.value).startswith("train.json: category 'cat'")
    assert "\n" not in str(error.value)
