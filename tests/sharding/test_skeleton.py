import pytest

from configs.load import InputError
from sharding.skeleton import COCO_17, DEFAULT_SIGMA, LSP_14, Skeleton, from_category, to_category


@pytest.mark.parametrize("skeleton", [COCO_17, LSP_14], ids=["coco", "lsp"])
class TestKnownSets:
    def test_flip_order_swaps_left_and_right_names(self, skeleton):
        swapped = [skeleton.names[index] for index in skeleton.flip_order]
        assert swapped == [_mirrored(name) for name in skeleton.names]

    def test_category_round_trip(self, skeleton):
        assert from_category(to_category(skeleton), where="f") == skeleton

    def test_json_round_trip(self, skeleton):
        assert Skeleton.from_json(skeleton.to_json()) == skeleton

    def test_pairs_and_sigmas_follow_from_names(self, skeleton):
        category = to_category(skeleton)
        del category["flip_pairs"], category["sigmas"]
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
        ({"name": "cat", "keypoints": ["left_eye", "nose"]}, "no partner 'right_eye'"),
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
