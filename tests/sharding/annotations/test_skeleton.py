import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.category import (
    AGAINST_NAMES,
    BAD_BONES,
    BONES_FROM_ZERO,
    LEFT_OUT,
    LONELY,
    UNMIRRORED,
    describe_keypoints,
    from_category,
)
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.skeleton import (
    AIC_14,
    COCO_17,
    CROWDPOSE_14,
    DEFAULT_SIGMA,
    LSP_14,
    MPII_16,
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


def described(category):
    """The skeleton of a category, and what was found about it: records by fault."""
    findings = Findings("train.json")
    skeleton = from_category(category, where="train.json", findings=findings)
    return skeleton, {finding.fault: finding.ids for finding in findings}


LEGS = [f"{leg}leg{side}{part}" for leg in ("fore", "mid", "hind") for side in "RL" for part in range(1, 5)]
FLY = ["head", "eyeL", "eyeR", "neck", "thorax", "abdomen", *LEGS, "wingL", "wingR"]
LOCUST_SIDE = ["anttip", "antbase", "eye", *sorted({f"{leg[:-2]}{leg[-1]}" for leg in LEGS})]
LOCUST = ["head", "neck", "thorax", "abdomen1", "abdomen2"]
for each in LOCUST_SIDE:
    LOCUST += [f"{each.rstrip('1234')}{side}{each[len(each.rstrip('1234')) :]}" for side in "LR"]
ZEBRA = ["snout", "head", "neck", "forelegL1", "forelegR1", "hindlegL1", "hindlegR1", "tailbase", "tailtip"]


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
        (["L1", "L2", "L3", "L4", "L5", "left_hip", "right_hip"], ((5, 6),)),
        (["left_hand_left", "right_hand_right"], ((0, 1),)),
        (["left_eye", "between_left_and_right_eye", "right_eye"], ((0, 2),)),
        (["paw_FL", "paw_FR", "paw_HL", "paw_HR", "LF", "RF"], ((0, 1), (2, 3), (4, 5))),
        (
            ["head", "eyeL", "eyeR", "forelegL1", "forelegR1", "forelegL2", "forelegR2"],
            ((1, 2), (3, 4), (5, 6)),
        ),
        (["1", "2", "3"], ()),
        (["oeil_gauche", "oeil_droit", "épaule gauche", "épaule droite", "nez"], ((0, 1), (2, 3))),
        (["linkes Auge", "rechtes Auge", "KnieLinks", "KnieRechts"], ((0, 1), (2, 3))),
        (["augelinks", "augerechts"], ((0, 1),)),
        (["L1", "R1", "r1", "nose"], ()),  # two could be the partner
        (["ojo_izq", "ojo_der", "hombro izquierdo", "hombro derecho"], ((0, 1), (2, 3))),
        (["spalla_sx", "spalla_dx", "occhio sinistro", "occhio destro"], ((0, 1), (2, 3))),
        (["olho esquerdo", "olho direito", "orelha_esquerda", "orelha_direita"], ((0, 1), (2, 3))),
        (["linkerknie", "rechterknie", "linker oog", "rechter oog"], ((0, 1), (2, 3))),
        (["левый глаз", "правый глаз", "левое_плечо", "правое_плечо"], ((0, 1), (2, 3))),
        (["左肩", "右肩", "前左足", "前右足", "左右中点", "1"], ((0, 1), (2, 3))),
        (["왼쪽 어깨", "오른쪽 어깨", "왼손", "오른손", "코"], ((0, 1), (2, 3))),
        (["左目", "右目", "ひだり肩", "みぎ肩", "鼻"], ((0, 1), (2, 3))),
        (["høyre kne", "venstre kne", "lewe_oko", "prawe_oko"], ((0, 1), (2, 3))),
        (["auge_links", "auge_rechts", "schulter_li", "schulter_re"], ((0, 1), (2, 3))),
        (["mata_kiri", "mata_kanan", "mắt_trái", "mắt_phải", "zuo_yan", "you_yan"], ((0, 1), (2, 3), (4, 5))),
        (["vasen_silmä", "oikea_silmä", "bal_szem", "jobb_szem"], ((0, 1), (2, 3))),
        (["αριστερό μάτι", "δεξί μάτι", "العين اليسرى", "العين اليمنى"], ((0, 1), (2, 3))),
        (["corner_v", "corner_h", "mata_kiri"], ()),
    ],
)
def test_mirror_names(names, pairs):
    skeleton = from_category({"keypoints": names}, where="f")
    assert skeleton.flip_pairs == pairs
    assert skeleton.bones == ()


class TestMirrorPairsThatAreMissing:
    @pytest.mark.parametrize(("names", "count"), [(FLY, 14), (LOCUST, 15), (ZEBRA, 2)])
    def test_animals_with_sides_before_numbers_are_paired_throughout(self, names, count):
        skeleton, found = described({"keypoints": names})
        assert len(skeleton.flip_pairs) == count
        for left, right in skeleton.flip_pairs:
            assert names[left].replace("L", "#").replace("R", "#") == names[right].replace("L", "#").replace(
                "R", "#"
            )
        assert found == {}

    def test_some_sided_names_without_partner_are_noted(self):
        assert described({"keypoints": ["eyeL1", "eyeR1", "legL1", "nose"]})[1] == {LONELY: ["legL1"]}
        french = ["oeil_gauche", "oeil_droit", "genou_gauche", "nez"]
        assert described({"keypoints": french})[1] == {LONELY: ["genou_gauche"]}

    @pytest.mark.parametrize("names", [["1", "2", "3"], ["thumb", "palm"], ["guba1", "guba2"]])
    def test_no_pair_at_all_is_noted_unless_the_file_says_so(self, names):
        assert described({"keypoints": names})[1] == {UNMIRRORED: names}
        assert described({"keypoints": names, "flip_pairs": []})[1] == {}

    def test_one_keypoint_needs_no_pair(self):
        assert described({"keypoints": ["tip"]})[1] == {}

    @pytest.mark.parametrize("skeleton", KNOWN_SETS.values(), ids=KNOWN_SETS)
    def test_known_sets_have_nothing_to_note(self, skeleton):
        for left_out in ((), ("flip_pairs",), ("flip_pairs", "sigmas")):
            category = {key: value for key, value in to_category(skeleton).items() if key not in left_out}
            assert described(category)[1] == {}

    def test_vertebrae_are_no_sides(self):
        assert described({"keypoints": ["L1", "L2", "L5", "left_hip", "right_hip"]})[1] == {}


class TestPairsThatAreGiven:
    NAMES = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")

    @pytest.mark.parametrize(
        ("pairs", "records"),
        [
            ([[1, 4], [3, 2]], ["left_eye/right_ear", "left_ear/right_eye"]),
            ([[0, 1], [2, 3]], ["nose/left_eye", "right_eye/left_ear"]),
            ([[1, 3], [2, 4]], ["left_eye/left_ear", "right_eye/right_ear"]),
        ],
        ids=["crossed", "one off", "same side"],
    )
    def test_against_the_names_stop(self, pairs, records):
        category = {"keypoints": self.NAMES, "flip_pairs": pairs}
        assert described(category)[1][AGAINST_NAMES] == records
        with pytest.raises(InputError, match="contradicts the names"):
            from_category(category, where="f")

    def test_of_one_side_stop_where_the_other_side_is_not_there(self):
        assert AGAINST_NAMES in described({"keypoints": ["left_eye", "left_ear"], "flip_pairs": [[0, 1]]})[1]

    def test_may_pair_what_the_names_do_not_tell(self):
        assert described({"keypoints": ["near", "off", "L1", "L2"], "flip_pairs": [[0, 1], [2, 3]]})[1] == {}

    def test_may_be_given_by_name(self):
        pairs = [["left_eye", "right_eye"], [3, "right_ear"]]
        assert described({"keypoints": self.NAMES, "flip_pairs": pairs})[0].flip_pairs == ((1, 2), (3, 4))

    def test_that_are_left_out_are_noted(self):
        found = described({"keypoints": self.NAMES, "flip_pairs": [[1, 2]]})[1]
        assert found == {LEFT_OUT: ["left_ear/right_ear"]}
        assert len(described({"keypoints": self.NAMES, "flip_pairs": []})[1][LEFT_OUT]) == 2


class TestSigmas:
    @pytest.mark.parametrize(
        ("names", "sigma"),
        [
            (["Left Shoulder", "Right Shoulder"], 0.079),
            (["LShoulder", "RShoulder"], 0.079),
            (["shoulder.L", "shoulder.R"], 0.079),
            (["left-hip", "right-hip"], 0.107),
            (["lknee", "rknee"], 0.087),
            (["Nose"], 0.026),
            (["Head Top"], 0.079),
            (["rear"], DEFAULT_SIGMA),  # not the right ear: nothing mirrors it
            (["paw", "tail"], DEFAULT_SIGMA),
        ],
    )
    def test_follow_from_names_however_they_are_spelt(self, names, sigma):
        assert from_category({"keypoints": names}, where="f").sigmas == (sigma,) * len(names)

    def test_and_pairs_are_listed(self):
        names = ["Left Eye", "Right Eye", "tail", "ear_l", "ear_r"]
        told = describe_keypoints(from_category({"keypoints": names}, where="f"))
        assert told["mirror pairs"] == "Left Eye/Right Eye, ear_l/ear_r; in none: tail"
        assert told["OKS sigmas"] == (
            "published: Left Eye 0.025, Right Eye 0.025, ear_l 0.035, ear_r 0.035; by default: tail 0.05"
        )
        given = from_category({"keypoints": names, "sigmas": [0.1, 0.1, 0.05, 0.2, 0.2]}, where="f")
        assert describe_keypoints(given, most=2)["OKS sigmas"] == (
            "by default: tail 0.05; given: Left Eye 0.1, Right Eye 0.1, ... (4 in all)"
        )
        assert describe_keypoints(from_category({"keypoints": ["a"]}, where="f"))["mirror pairs"] == "none"


class TestBones:
    NAMES = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")

    def test_are_counted_from_1(self):
        skeleton, found = described({"keypoints": self.NAMES, "skeleton": [[1, 2], [1, 3], [5, 3]]})
        assert (skeleton.bones, found) == (((0, 1), (0, 2), (4, 2)), {})

    def test_that_hold_a_0_are_counted_from_0(self):
        bones = [[0, 1], [0, 2], [1, 3], [2, 4]]
        skeleton, found = described({"name": "cat", "keypoints": self.NAMES, "skeleton": bones})
        assert skeleton.bones == tuple(map(tuple, bones))
        assert found == {BONES_FROM_ZERO: ["cat"]}

    def test_that_are_the_same_on_both_sides_only_from_0_are_counted_from_0(self):
        bones = [[1, 2], [1, 3], [2, 4]]  # from 1: nose to eyes and one eye to an ear
        skeleton, found = described({"name": "cat", "keypoints": self.NAMES, "skeleton": bones})
        assert skeleton.bones == ((1, 2), (1, 3), (2, 4))
        assert found == {BONES_FROM_ZERO: ["cat"]}

    @pytest.mark.parametrize(
        "bones", [[[1, 2], [1, 3]], [[1, 2], [2, 4]], [[1, 2]], [[2, 3]], [[4, 5]], [[1, 1]]]
    )
    def test_of_a_part_of_the_keypoints_stay_counted_from_1(self, bones):
        skeleton, found = described({"keypoints": self.NAMES, "skeleton": bones})
        assert (skeleton.bones, found) == (tuple((a - 1, b - 1) for a, b in bones), {})

    @pytest.mark.parametrize(
        "bones",
        [
            [[1, 6]],
            [[0, 5]],
            [[-1, 2]],
            [[1, 2, 3]],
            [[1]],
            7,
            "ab",
            [["nose", "left_eye"]],
            [1, 2],
            {"a": 1},
        ],
    )
    def test_that_do_not_fit_are_left_out_and_noted(self, bones):
        skeleton, found = described({"name": "cat", "keypoints": self.NAMES, "skeleton": bones})
        assert (skeleton.bones, found) == ((), {BAD_BONES: ["cat"]})
        assert "source.bones=[]" in BAD_BONES.cure

    def test_as_whole_floats_or_text_are_read(self):
        bones = [[1.0, 2.0], ["1", "3"]]
        assert described({"keypoints": self.NAMES, "skeleton": bones})[0].bones == ((0, 1), (0, 2))


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ({"name": "cat"}, "names no keypoints: .*source.keypoints"),
        ({"name": "cat", "keypoints": []}, "names no keypoints"),
        ({"name": "cat", "keypoints": "nose"}, "`keypoints` is no list of names"),
        ({"name": "cat", "keypoints": ["a", "a"]}, "distinct, but 'a' occurs more than once"),
        ({"name": "cat", "keypoints": ["a", "b", "b", "a", "c"]}, "'a', 'b' occur more than once"),
        (
            {"name": "cat", "keypoints": ["", "", ""]},
            r"3 of 3 keypoints have no name \(number 1, 2, 3; the first is an empty text\): .*source\.",
        ),
        (
            {"name": "cat", "keypoints": ["a", None]},
            r"1 of 2 .* \(number 2; the first is None, which is no name",
        ),
        ({"name": "cat", "keypoints": ["a", {"name": "b"}]}, "which is no name"),
        ({"name": "cat", "keypoints": ["a", " "]}, "1 of 2 keypoints have no name"),
        (
            {"name": "cat", "keypoints": ["left_eye", "nose"]},
            "'left_eye' has no partner .*`flip_pairs` .*source.flip_pairs",
        ),
        ({"name": "cat", "keypoints": ["eye.R", "nose"]}, "'eye.R' has no partner"),
        ({"name": "cat", "keypoints": ["LEye", "left_eye", "r_eye"]}, "'r_eye' has 'LEye' and 'left_eye'"),
        ({"name": "cat", "keypoints": ["a", "b"], "sigmas": [0.1]}, "2 sigmas"),
        ({"name": "cat", "keypoints": ["a", "b"], "sigmas": ["x", "y"]}, "could not convert"),
        (
            {"name": "cat", "keypoints": ["a", "b"], "flip_pairs": [[1, 2]]},
            "1 to 2, but counts the 2 keypoints from 0",
        ),
        (
            {"name": "cat", "keypoints": ["a", "b"], "flip_pairs": [[0]]},
            "no list of pairs of indices or names",
        ),
        (
            {"name": "cat", "keypoints": ["a", "b"], "flip_pairs": [["a", "c"]]},
            "'c' is not a keypoint",
        ),
        ({"name": "cat", "keypoints": ["a", "b", "c"], "flip_pairs": [[0, 1], [1, 2]]}, "two flip pairs"),
    ],
)
def test_bad_category_is_one_sentence_with_the_file(category, words):
    with pytest.raises(InputError, match=words) as error:
        from_category(category, where="train.json")
    assert str(error.value).startswith("train.json: category 'cat'")
    assert "\n" not in str(error.value)


def test_names_that_are_numbers_are_names():
    assert from_category({"keypoints": [1, 2]}, where="f").names == ("1", "2")
