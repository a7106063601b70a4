"""One annotation file to a train and a val set: who falls to which side, and what each build then holds."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.split import TrainValSplit, take_side
from semipose.sharding.build import build
from semipose.sharding.check.report import beside, check
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.store.manifest import MANIFEST_NAME, check_shards, read_manifest
from tests.tars import stored_samples

SIDES = ("train", "val")


def names(count, start=0):
    return [f"{number:06d}.jpg" for number in range(start, start + count)]


def val_of(photos, **changes):
    split = TrainValSplit(take="val", **changes)
    return {name for name in photos if split.side_of(name) == "val"}


class TestLaw:
    def test_the_shares_are_near_those_asked(self):
        for val_share in (0.05, 0.2, 0.5, 0.9):
            for seed in range(5):  # five standard deviations of a binomial
                expected, spread = 4000 * val_share, (4000 * val_share * (1 - val_share)) ** 0.5
                assert abs(len(val_of(names(4000), val_share=val_share, seed=seed)) - expected) < 5 * spread

    def test_a_larger_share_contains_a_smaller_one(self):
        assert val_of(names(500), val_share=0.1) < val_of(names(500), val_share=0.3)

    def test_another_seed_is_another_division(self):
        first, second = (val_of(names(2000), seed=seed) for seed in (0, 1))
        assert 40 < len(first & second) < 130  # 0.2 of 0.2 of them

    def test_it_stays_what_it_is(self):
        """The bytes of every split that was ever built hang on this."""
        assert sorted(val_of(names(20), seed=7)) == ["000000.jpg", "000004.jpg", "000011.jpg"]  # sha256sum

    @given(st.lists(st.sampled_from(["a/x1.jpg", "a/x2.jpg", "a/b/1.png", "b/x1.jpg", "x1.jpg", "y.jpg"])))
    def test_groups_are_never_divided(self, photos):
        for group, key in (("folder", lambda name: name.rpartition("/")[0]), ("sequence", sequence)):
            split = TrainValSplit(take="val", val_share=0.5, group=group)
            sides = {(key(name), split.side_of(name)) for name in photos}
            assert len(sides) == len({key(name) for name in photos})


def sequence(name):
    return {"a/x1.jpg": "a/x", "a/x2.jpg": "a/x"}.get(name, name)


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        ("photo", [["a/1.jpg"], ["a/2.jpg"], ["a/run3_7.jpg"], ["b/1.jpg"], ["9.jpg"], ["10.png"]]),
        ("folder", [["a/1.jpg", "a/2.jpg", "a/run3_7.jpg"], ["b/1.jpg"], ["9.jpg", "10.png"]]),
        ("sequence", [["a/1.jpg", "a/2.jpg"], ["a/run3_7.jpg"], ["b/1.jpg"], ["9.jpg", "10.png"]]),
    ],
)
def test_what_a_group_is(group, groups):
    split = TrainValSplit(take="val", group=group)
    found = [{split.group_of(name) for name in members} for members in groups]
    assert [len(each) for each in found] == [1] * len(groups)
    assert len(set.union(*found)) == len(groups)


FRAMES = {  # names that frames of one clip have, by who names them so: the one sequence that they are
    "plain": ("a/clip_{:04d}.jpg", "a/clip_"),
    "no name but a number": ("a/{:08d}.jpg", "a/"),
    "roboflow": ("clipA_mp4-{:04d}_jpg.rf.{hash}.jpg", "clipA_mp4-"),
    "roboflow of png, long hash": ("x/clip{}_png.rf.{hash}{hash}{hash}{hash}.jpg", "x/clip"),
    "roboflow, old": ("clip-{}.rf.{hash}.jpg", "clip-"),
    "roboflow, frame of a file with an ending": ("clip_{:04d}_png_jpg.rf.{hash}.jpg", "clip_"),
    "brackets": ("clip ({}).jpg", "clip ()"),
    "left camera": ("clip_{:04d}_left.jpg", "clip_"),
    "right camera": ("clip_{:04d}-right.png", "clip_"),
    "augmented": ("clip_{:04d}_aug1.jpg", "clip_"),
    "augmented often": ("clip_{0:04d}_aug_{0}.jpg", "clip_"),
    "copies": ("clip_{:04d} - Copy (2).jpg", "clip_"),
    "seconds": ("cam_2024-05-01_12-00-{:02d}.jpg", "cam_2024-05-01"),
    "minutes": ("cam1_2024-05-01_12-{:02d}-{other:02d}.jpg", "cam1_2024-05-01"),
    "minutes of a standard": ("cam_2024-05-01T12:{:02d}:{other:02d}Z.jpg", "cam_2024-05-01"),
    "minutes of a player": ("vlcsnap-2024-05-01-12h{:02d}m{other:02d}s{:03d}.png", "vlcsnap-2024-05-01"),
    "minutes of a screen": ("Screenshot 2024-05-01 at 12.{:02d}.{other:02d} PM.png", "Screenshot 2024-05-01"),
    "milliseconds": ("cam_2024-05-01_12-00-{:02d}.{:03d}.jpg", "cam_2024-05-01"),
    "a clock": ("clip2_00:{:02d}:{other:02d}.{:03d}.jpg", "clip2_"),
    "minutes and seconds": ("clip2_{:02d}m{other:02d}s.jpg", "clip2_"),
    "seconds of a clip": ("clip2_{}.{other:02d}.jpg", "clip2_"),
    "hexadecimal": ("clip2_{:04x}.jpg", "clip2_"),
    "hexadecimal capitals": ("clip2-{:06X}.jpg", "clip2-"),
    "several cameras": ("frame{:05d}_cam{other}.jpg", "frame"),
    "cut-outs": ("clip_{:05d}_person_{other}.jpg", "clip_"),
    "lines": ("clip_{:05d}_1080p.jpg", "clip_"),
    "a rate": ("clip_{:05d}_30fps.jpg", "clip_"),
    "a scale": ("clip_{:05d}@2x.jpg", "clip_"),
    "seconds since 1970": ("cam1_17145000{:02d}.jpg", "cam1_"),
    "seconds since 1970 and parts": ("cam1_17145000{:02d}.{:03d}.jpg", "cam1_"),
    "of so many": ("clip-{:05d}-of-00024.jpg", "clip-"),
    "number first": ("{:04d}_clip.jpg", "_clip"),
    "number amid": ("clip_frame{:04d}_rgb.jpg", "clip_frame_rgb"),
    "label studio": ("{hash}-clip_{:04d}.jpg", "clip_"),
    "label studio, in folders": ("data/upload/1/{hash}-clip_{:04d}.jpg", "data/upload/1/clip_"),
    "resolution": ("clip_{:04d}_640x480.jpg", "clip_"),
    "resolution of a camera": ("clip_{:04d}_left_640x480.jpg", "clip_"),
    "capitals": ("clip_{:04d}.JPG", "clip_"),
    "backslashes": ("a\\clip_{:04d}.jpg", "a/clip_"),
    "a dot": ("./a/clip_{:04d}.jpg", "a/clip_"),
    "no ending": ("clip{}", "clip"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_one_clip_are_one_sequence(kind):
    pattern, sequence = FRAMES[kind]
    split = TrainValSplit(take="val", group="sequence")
    photos = [pattern.format(n, n, other=n * 7 % 60, hash=f"{n * 2654435761 % 2**32:08x}") for n in range(24)]
    assert {split.group_of(name) for name in photos} == {sequence}


@pytest.mark.parametrize("digits", ["۰۱۲۳۴۵۶۷۸۹", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９"])
def test_digits_of_other_scripts_are_numbers(digits):
    split = TrainValSplit(take="val", group="sequence")
    table = str.maketrans("0123456789", digits)
    assert {split.group_of(f"clip_{n:04d}.jpg".translate(table)) for n in range(24)} == {"clip_"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("clipA_mp4-0003_jpg.rf.daa685b49f.jpg", "clipB_mp4-0003_jpg.rf.daa685b49f.jpg"),
        ("a/0001.jpg", "b/0001.jpg"),
        ("a3/x.jpg", "a4/x.jpg"),
        ("20240501-clip_0001.jpg", "20240502-clip_0001.jpg"),  # days, no prefix of a tool
        ("clip1.0003.jpg", "clip2.0003.jpg"),
        ("0003_walk.jpg", "0004_run.jpg"),
        ("run3_1_left.jpg", "run4_1_left.jpg"),
        ("clip_2_cam1_0001.jpg", "clip_2_cam2_0001.jpg"),
        ("S1_01_02_0003.jpg", "S1_01_03_0003.jpg"),
        ("cam_2024-05-01_12-00-03.jpg", "cam_2024-05-02_12-00-03.jpg"),
        ("cafe.jpg", "face.jpg"),
        ("run_1.0003.jpg", "run_2.0003.jpg"),
    ],
)
def test_other_clips_are_other_sequences(one, other):
    split = TrainValSplit(take="val", group="sequence")
    assert split.group_of(one) != split.group_of(other)


@given(
    st.from_regex(
        r"([a-z]{1,5}[0-9]{0,2}/){0,2}([a-z]{1,5}[0-9]{0,3}[_-]){0,2}[0-9]{1,9}(\.jpg|\.PNG)?", fullmatch=True
    )
)
def test_plain_names_keep_the_sides_that_they_had(name):
    """A number before the ending: what a sequence was before names of tools were known."""
    split = TrainValSplit(take="val", group="sequence")
    assert split.group_of(name) == re.sub(r"[0-9]*(\.[^./]*)?$", "", name, count=1)
    assert TrainValSplit(take="val").group_of(name) == name
    assert TrainValSplit(take="val", group="folder").group_of(name) == re.sub(r"[^/]*$", "", name)


def test_copies_of_one_photo_are_one_photo():
    for group in ("photo", "sequence"):
        split = TrainValSplit(take="val", group=group)
        for copies in (
            [
                "a/7.jpg",
                "a/7_jpg.rf.0a1b2c.jpg",
                "a/7_jpg.rf.9f8e7d6c5b.jpg",
                "a/7_aug1_jpg.rf.9f8e7d6c5b.jpg",
            ],
            ["b/7.png", "b/7_aug1.png", "b/7_aug_12.png", "b/7-aug3.png", "b/7_augmented.png"],
            [
                "d/7.jpg",
                "d/7_flip.jpg",
                "d/7_hflip.jpg",
                "d/7-mirrored.jpg",
                "d/7_rot90.jpg",
                "d/7_flipped_rot_180.jpg",
            ],
            ["e/c.jpg", "e/Copy of c.jpg", "e/c - Kopie (2).jpg"],
            ["c.jpg", "c - Copy.jpg", "c - Copy (2).jpg", "c copy.jpg", "c copy 2.jpg", "c_copy.jpg"],
        ):
            assert len({split.group_of(name) for name in copies}) == 1
    split = TrainValSplit(take="val")
    alone = [
        "a/7.jpg",
        "a/8.jpg",
        "2021-aug-05.jpg",
        "05-aug.jpg",
        "copy.jpg",
        "7 (1).jpg",
        "surf.jpg",
        "x.rf.jpg",
    ]
    assert [split.group_of(name) for name in alone] == alone


@pytest.mark.parametrize(
    ("group", "pattern", "sizes"),
    [
        ("sequence", "scene{}b/x.jpg", (1, 1, 12)),
        ("sequence", "take{:02x}.jpg", (1, 9, 3)),  # hexadecimal: a, b and c lack a number
        ("sequence", "clip{0:04b}.jpg", (12, 12, 0)),
        ("folder", "in{}/x.jpg", (1, 1, 12)),
        ("photo", "{}_jpg.rf.0a1b2c.jpg", (1, 1, 12)),
    ],
)
def test_the_size_of_groups_is_printed_with_a_note_if_it_is_one_photo(
    make_set, tmp_path, group, pattern, sizes
):
    small = make_set(photos=12)
    for row in small.content["images"]:
        name = pattern.format(row["id"])
        (small.images / name).parent.mkdir(exist_ok=True)
        (small.images / row["file_name"]).rename(small.images / name)
        row["file_name"] = name
    small.save()
    settings = small.settings(tmp_path / "x", split=TrainValSplit(take="train", group=group, val_share=0.4))
    if sizes[1] == 12:
        with pytest.raises(InputError, match="of 1 sequence with people: take val from another recording"):
            build(settings, console=Console(file=io.StringIO()))
        return
    console = Console(file=io.StringIO(), width=300)
    manifest = build(settings, console=console)
    found = manifest.split.sizes
    assert (found.median, found.largest, found.alone) == sizes
    told = (
        f"; groups hold {sizes[0]} photos in the median, {sizes[1]} at most; {sizes[2]} hold a single one\n"
    )
    assert (told in console.file.getvalue()) == (group != "photo")
    noted = [count for what, count in manifest.problems.items() if f"split.group={group}" in what]
    assert noted == ([] if group == "photo" else [sizes[2]])
    check(small.settings(tmp_path / "x", split=settings.split, check="only"), console=console)
    assert ("can be on both sides" in console.file.getvalue()) == (group != "photo")


@pytest.fixture
def small(make_set):
    """Twelve photos; one person of photo 1 has no joints, one of photo 2 is a crowd, nobody is on photo 3."""
    small = make_set(photos=12)
    rows = [row for row in small.content["annotations"] if row["image_id"] != 3]
    rows[0].update(keypoints=[0] * 51)
    rows[2].update(iscrowd=1)
    small.content["annotations"] = rows
    small.save()
    return small


def both(small, tmp_path, quiet, **changes):
    """The folders of both sides."""
    for side in SIDES:
        split = TrainValSplit(take=side, val_share=0.4, **changes)
        build(small.settings(tmp_path / side, split=split), console=quiet)
    return [tmp_path / side for side in SIDES]


def truth_of(folder):
    return json.loads((folder / "ground_truth.json").read_text())


def ids(rows):
    return [row["id"] for row in rows]


class TestBuild:
    def test_both_sides_make_up_the_whole(self, small, tmp_path, quiet):
        folders = both(small, tmp_path, quiet)
        build(small.settings(tmp_path / "whole"), console=quiet)
        whole, parts = truth_of(tmp_path / "whole"), [truth_of(folder) for folder in folders]
        for key in ("images", "annotations"):
            of_sides = [ids(part[key]) for part in parts]
            assert all(of_sides)
            assert sorted(of_sides[0] + of_sides[1]) == sorted(ids(whole[key]))
            rows = {row["id"]: row for row in whole[key]}
            assert all(row == rows[row["id"]] for part in parts for row in part[key])
        photos = [{row["image_id"] for row in part["annotations"]} for part in parts]
        assert not photos[0] & photos[1]

    def test_samples_are_the_people_of_the_side_in_the_order_of_the_file(self, small, tmp_path, quiet):
        for folder in both(small, tmp_path, quiet):
            check_shards(folder, read_manifest(folder))
            verify(VerifySettings(verify=folder, workers=1), console=quiet)
            stored = [json.loads(members["json"]) for _, members in stored_samples(folder)]
            known = truth_of(folder)
            assert {card["image_id"] for card in stored} == set(ids(known["images"]))
            scored = (row for row in known["annotations"] if row["num_keypoints"] and not row["iscrowd"])
            assert ids(stored) == ids(scored)

    def test_the_manifest_and_the_terminal_describe_both_sides(self, small, tmp_path, quiet):
        folders = both(small, tmp_path, quiet, seed=3)
        cards = [read_manifest(folder).split for folder in folders]
        assert [card.take for card in cards] == list(SIDES)
        assert (cards[0].train, cards[0].val) == (cards[1].train, cards[1].val)
        assert (cards[0].val_share, cards[0].seed, cards[0].group) == (0.4, 3, "photo")
        for side, folder in zip(SIDES, folders, strict=True):
            count = getattr(cards[0], side)
            assert count.photos == count.groups == len(truth_of(folder)["images"])
            assert count.people == read_manifest(folder).num_samples
        console = Console(file=io.StringIO(), width=200)
        build(
            small.settings(tmp_path / "val", split=TrainValSplit(take="val", val_share=0.4, seed=3)),
            console=console,
        )
        train, val = cards[0].train, cards[0].val
        assert (
            f"split by photo (val_share 0.4, seed 3): train {train.photos} photos, {train.people} people; "
            f"val (taken) {val.photos} photos, {val.people} people\n" in console.file.getvalue()
        )

    def test_photos_added_later_and_another_order_move_none(self, small):
        def sides():
            parts = [
                take_side(small.source.read(), TrainValSplit(take=side, val_share=0.4)) for side in SIDES
            ]
            photos = [{person.image_id for person in part.persons} for part, _ in parts]
            assert [(card.train.photos, card.val.photos) for _, card in parts] == [
                tuple(map(len, photos))
            ] * 2
            return photos

        everyone = sides()
        added = {2, 7, 9}
        small.content["images"] = [row for row in small.content["images"] if row["id"] not in added][::-1]
        kept = [row for row in small.content["annotations"] if row["image_id"] not in added]
        small.content["annotations"] = kept
        small.save()
        assert sides() == [photos - added for photos in everyone]

    def test_a_side_to_which_nothing_was_added_is_there_already(self, small, tmp_path, quiet):
        split = {side: TrainValSplit(take=side, val_share=0.4) for side in SIDES}
        row = small.content["images"][-1]
        name = next(f"{i:012d}.jpg" for i in range(20, 99) if split["val"].side_of(f"{i:012d}.jpg") == "val")
        both(small, tmp_path, quiet)
        (small.images / row["file_name"]).rename(small.images / name)
        small.content["images"].append({**row, "id": 50, "file_name": name})
        person = small.content["annotations"][-1]
        small.content["annotations"].append({**person, "id": 999, "image_id": 50})
        small.save()
        build(small.settings(tmp_path / "train", split=split["train"]), console=quiet)
        with pytest.raises(InputError, match="other annotations or settings"):
            build(small.settings(tmp_path / "val", split=split["val"]), console=quiet)

    @pytest.mark.parametrize(
        "change", [{"seed": 1}, {"val_share": 0.5}, {"take": "train"}, {"group": "folder"}]
    )
    def test_every_value_is_part_of_what_shards_are(self, make_set, tmp_path, quiet, change):
        small = make_set(photos=12)
        for row in small.content["images"]:
            (small.images / f"{row['id'] % 4}").mkdir(exist_ok=True)
            name = f"{row['id'] % 4}/{row['file_name']}"
            (small.images / row["file_name"]).rename(small.images / name)
            row["file_name"] = name
        small.save()
        values = {"take": "val", "val_share": 0.4}
        build(small.settings(tmp_path / "x", split=TrainValSplit(**values)), console=quiet)
        for split in (TrainValSplit(**(values | change)), None):
            with pytest.raises(InputError, match="other annotations or settings"):
                build(small.settings(tmp_path / "x", split=split), console=quiet)

    def test_a_manifest_from_before_there_were_splits_is_read(self, small, tmp_path, quiet):
        manifest = build(small.settings(tmp_path / "x"), console=quiet)
        path = tmp_path / "x" / MANIFEST_NAME
        content = json.loads(path.read_text())
        assert content.pop("split") is None
        path.write_text(json.dumps(content))
        assert read_manifest(tmp_path / "x") == manifest


class TestEmptySide:
    @pytest.mark.parametrize("take", SIDES)
    def test_is_one_sentence_whichever_side_is_built(self, make_set, tmp_path, quiet, take):
        small = make_set(photos=2)
        split = TrainValSplit(take=take, val_share=0.01)
        with pytest.raises(
            InputError,
            match=r"annotations\.json: nobody is on the val side of the split \(split\.val_share=0\.01, "
            r"split\.seed=0\) of 2 photos with people: give another split\.val_share or split\.seed$",
        ):
            build(small.settings(tmp_path / "x", split=split), console=quiet)
        assert list(tmp_path.iterdir()) == [small.folder]

    @pytest.mark.parametrize("group", ["folder", "sequence"])
    def test_of_one_group_that_is_never_divided(self, make_set, tmp_path, quiet, group):
        """Dividing it by photos puts the frames of one clip on both sides: that is said beside the advice."""
        split = TrainValSplit(take="val", group=group)
        with pytest.raises(
            InputError,
            match=f"of 1 {group} with people: take val from another recording, .*; "
            "split.group=photo is for photos of which no two show the same scene$",
        ):
            build(make_set(photos=3).settings(tmp_path / "x", split=split), console=quiet)

    def test_a_file_without_people_has_its_own_sentence(self, make_set, tmp_path, quiet):
        small = make_set(photos=2)
        small.content["annotations"] = []
        small.save()
        with pytest.raises(InputError, match="no person is left to store"):
            build(small.settings(tmp_path / "x", split=TrainValSplit(take="val")), console=quiet)


def test_check_looks_at_the_side_alone(small, tmp_path):
    split = TrainValSplit(take="val", val_share=0.4)
    annotations, card = take_side(small.source.read(), split)
    other = next(row for row in small.content["images"] if split.side_of(row["file_name"]) == "train")
    (small.images / other["file_name"]).unlink()
    console = Console(file=io.StringIO(), width=200)
    check(small.settings(tmp_path / "x", split=split, check="only"), console=console)
    assert "val (taken)" in console.file.getvalue()
    content = json.loads(beside(tmp_path / "x", "check.json").read_text())
    assert (content["people"], content["errors"]) == (len(annotations.persons), 0)
    assert card.val.people == len(annotations.persons)


def test_detected_people_are_divided_with_their_truth(make_set, tmp_path):
    small = make_set(photos=10)
    boxes = [
        {"image_id": number, "bbox": [10, 10, 40, 60], "score": 0.5, "category_id": 1}
        for number in range(1, 9)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    found = Detections(results=tmp_path / "boxes.json")
    source = CocoFormat(annotations=small.annotations, images=small.images, boxes=found)
    parts = [take_side(source.read(), TrainValSplit(take=side, val_share=0.4))[0] for side in SIDES]
    photos = [{row.image_id for row in part.annotated} for part in parts]
    assert photos[0] | photos[1] == set(range(1, 11))
    assert not photos[0] & photos[1]
    for part, there in zip(parts, photos, strict=True):
        assert {p.image_id for p in part.persons} | {p.id for p in part.empty_photos} == there


def test_a_photo_listed_under_two_ids_falls_to_one_side(make_set):
    small = make_set(photos=8)
    for row in small.content["images"]:
        row["file_name"] = f"{(row['id'] + 1) // 2:012d}.jpg"
    small.save()
    parts = [take_side(small.source.read(), TrainValSplit(take=side, val_share=0.5))[0] for side in SIDES]
    shown = [{person.file_name for person in part.persons} for part in parts]
    assert not shown[0] & shown[1]
    assert len(shown[0] | shown[1]) == 4


def test_every_format_is_divided_alike(shared_data):
    folder = shared_data / "lspet"
    source = LspFormat(joints=folder / "joints.mat", images=folder / "images", first=1, last=200)
    parts = [take_side(source.read(), TrainValSplit(take=side))[0] for side in SIDES]
    people = [{person.id for person in part.persons} for part in parts]
    assert people[1] == {int(name[2:7]) for name in val_of(f"im{number:05d}.jpg" for number in range(1, 201))}
    assert people[0] | people[1] == set(range(1, 201))
    assert not people[0] & people[1]
