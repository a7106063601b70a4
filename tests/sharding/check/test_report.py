import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault
from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.check.report import beside, check
from semipose.sharding.check.sheet import TILE_WH
from semipose.sharding.store.identity import identify

BUILD = Path(__file__).parents[3] / "sharding" / "build.py"


@pytest.fixture
def small(make_set):
    return make_set()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "shards" / "small"


def looked_at(small, output, **changes):
    """The table, the error's text or "", and the faults of the JSON by what they are."""
    small.save()
    console = Console(file=io.StringIO(), width=400)
    try:
        check(small.settings(output, check="only", **changes), console=console)
        error = ""
    except InputError as refused:
        error = str(refused)
    content = json.loads(beside(output, "check.json").read_text())
    faults = content["faults"]
    assert content["errors"] == sum(fault["effect"] == "stops" for fault in faults)
    assert bool(content["errors"]) == bool(error)
    return console.file.getvalue(), error, {fault["fault"]: fault for fault in faults}


def photo(small, number):
    return small.images / f"{number:012d}.jpg"


def rotated(path):
    """Tag a photo as lying on its side."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)


class TestAnnotationFaults:
    """Each fault of one made set: what the report calls it, its effect, the records that have it."""

    def has(self, small, output, *, fault, effect, ids, **changes):
        table, error, faults = looked_at(small, output, **changes)
        assert list(faults) == [fault]
        found = faults[fault]
        assert (found["effect"], found["ids"], found["count"]) == (effect, ids, len(ids))
        assert found["file"] in (str(small.annotations), str(small.images))
        assert fault in table
        assert str(ids[0]) in table
        assert (fault in error) == (effect == "stops")

    def test_none(self, small, output):
        table, _, faults = looked_at(small, output)
        assert not faults
        assert "10 people, 5 photos: no fault found" in table
        assert not output.exists()

    def test_pairs_and_sigmas_of_the_keypoints_are_named(self, small, output):
        names = ["Left Eye", "Right Eye", "tail"]
        small.content["categories"] = [{"id": 1, "name": "cat", "keypoints": names}]
        for row in small.content["annotations"]:
            row["keypoints"] = row["keypoints"][:9]
        table, _, _ = looked_at(small, output)
        assert "mirror pairs: Left Eye/Right Eye; in none: tail\n" in table
        assert "OKS sigmas: published: Left Eye 0.025, Right Eye 0.025; by default: tail 0.05\n" in table
        listed = json.loads(beside(output, "check.json").read_text())["keypoints"]
        assert listed == [
            {"name": "Left Eye", "mirror": "Right Eye", "sigma": 0.025, "sigma_from": "published"},
            {"name": "Right Eye", "mirror": "Left Eye", "sigma": 0.025, "sigma_from": "published"},
            {"name": "tail", "mirror": None, "sigma": 0.05, "sigma_from": "by default"},
        ]

    def test_no_pairs(self, small, output):
        small.content["categories"] = [{"id": 1, "name": "cat", "keypoints": ["1", "2"]}]
        for row in small.content["annotations"]:
            row["keypoints"] = row["keypoints"][:6]
        table, _, faults = looked_at(small, output)
        assert [(fault["effect"], fault["ids"]) for fault in faults.values()] == [("warned", ["1", "2"])]
        assert "source.flip_pairs=[]" in table
        assert "mirror pairs: none\n" in table

    def test_image_rows_listed_again(self, small, output):
        small.content["images"] *= 2
        self.has(small, output, fault="image rows listed again", effect="corrected", ids=[1, 2, 3, 4, 5])

    def test_crowd(self, small, output):
        small.content["annotations"][2]["iscrowd"] = 1
        self.has(small, output, fault="crowd", effect="dropped", ids=[20])

    def test_person_without_joints(self, small, output):
        small.content["annotations"][3]["keypoints"] = [0] * 51
        self.has(small, output, fault="no labelled keypoints", effect="dropped", ids=[21])

    def test_empty_box(self, small, output):
        small.content["annotations"][0]["bbox"] = [10, 10, 0, 0]
        self.has(small, output, fault="box empty or outside the photo", effect="dropped", ids=[10])

    def test_box_beyond_the_photo(self, small, output):
        row = small.content["annotations"][0]
        row["bbox"] = [150, 10, 100, 100]
        for index in range(0, 51, 3):
            row["keypoints"][index : index + 3] = [150 + index, 20 + index, 2]
        self.has(small, output, fault="box beyond the photo, clipped", effect="corrected", ids=[10])

    def test_visibility_out_of_range(self, small, output):
        small.content["annotations"][4]["keypoints"][5] = 3
        fault = "a keypoint's third number is not 0, 1 or 2"
        self.has(small, output, fault=fault, effect="stops", ids=[30])

    def test_joint_outside(self, small, output):
        x, y, _, height = small.content["annotations"][5]["bbox"]
        small.content["annotations"][5]["bbox"] = [x, y, 201 - x, height]
        small.content["annotations"][5]["keypoints"][:3] = [203, 20, 1]
        self.has(small, output, fault="labelled joint outside the photo", effect="kept", ids=[31])

    def test_swapped_names(self, make_set, output):
        small = make_set(photos=20)
        pairs = [(left, left + 1) for left in range(1, 17, 2)]
        for row in small.content["annotations"]:
            points = np.array(row["keypoints"]).reshape(17, 3)
            x = points[:, 0].mean()
            for left, right in pairs:
                points[[left, right], 0] = (x - 10, x + 10) if left == 7 else (x + 10, x - 10)
            row["keypoints"] = points.ravel().tolist()
        fault = "left and right look swapped"
        self.has(small, output, fault=fault, effect="kept", ids=["left_elbow/right_elbow"])

    @pytest.mark.parametrize(("rule", "effect"), [("stop", "stops"), ("skip", "dropped")])
    def test_photo_absent(self, small, output, rule, effect):
        photo(small, 3).unlink()
        ids = [photo(small, 3).name]
        self.has(small, output, fault="photo absent", effect=effect, ids=ids, missing_images=rule)

    def test_photos_absent_under_nearly_the_names_of_others(self, small, output):
        names = [row["file_name"] for row in small.content["images"]]
        wrong = [names[0].upper(), f"images/{names[1]}", f"/data/{names[2].upper()}", *names[3:]]
        for row, name in zip(small.content["images"], wrong, strict=True):
            row["file_name"] = name
        table, _, faults = looked_at(small, output)
        told = [f"{name} ({there} is there)" for name, there in zip(wrong, names, strict=True)]
        assert faults["photo absent"]["ids"] == told[:2]
        assert faults["the name leads out of the photos' location"]["ids"] == [told[2]]
        assert f"{told[0]}, {told[1]}" in table

    @pytest.mark.parametrize(("rule", "effect"), [("stop", "stops"), ("skip", "dropped")])
    @pytest.mark.parametrize("content", [b"", b"<html>", None])
    def test_photo_damaged(self, small, output, content, rule, effect):
        path = photo(small, 2)
        path.write_bytes(path.read_bytes()[:-100] if content is None else content)
        self.has(
            small,
            output,
            fault="photo cannot be decoded",
            effect=effect,
            ids=[path.name],
            corrupt_images=rule,
        )

    def test_photo_unreadable(self, small, output, monkeypatch):
        """No damage that corrupt_images=skip would leave out: a build stops here."""
        path = photo(small, 2)
        path.write_bytes(path.read_bytes() + bytes(10**5))
        monkeypatch.setattr("semipose.sharding.annotations.photos.folder.MOST_BYTES", 10**5)
        fault = "photo cannot be read"
        self.has(small, output, fault=fault, effect="stops", ids=[path.name], corrupt_images="skip")

    @pytest.mark.parametrize(("rule", "effect"), [("stop", "stops"), ("skip", "dropped")])
    def test_photo_of_another_size(self, small, output, rule, effect):
        small.content["images"][3]["width"] = 201
        fault = "photo of another size than annotated"
        self.has(small, output, fault=fault, effect=effect, ids=[photo(small, 4).name], corrupt_images=rule)

    def test_photo_rotated_by_exif_alone(self, small, output):
        rotated(photo(small, 1))
        fault = "EXIF rotation, not obeyed: joints are taken to lie in the pixels as they are stored"
        self.has(small, output, fault=fault, effect="kept", ids=[photo(small, 1).name])

    def test_photo_that_exif_turns_to_its_annotated_size(self, make_set, output):
        small = make_set(photos=1)
        with Image.open(photo(small, 1)) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(photo(small, 1))
        rotated(photo(small, 1))
        fault = "EXIF rotation, obeyed: the photo turned upright has the annotated size"
        self.has(small, output, fault=fault, effect="corrected", ids=[photo(small, 1).name])

    @pytest.mark.parametrize(("copies", "effect"), [(1, "kept"), (2, "warned")])
    def test_photo_under_another_name(self, small, output, copies, effect):
        for number in range(2, 2 + copies):
            photo(small, number).write_bytes(photo(small, 1).read_bytes())
        ids = [photo(small, number).name for number in range(2, 2 + copies)]
        fault = "the same photo under another name (equal bytes)"
        self.has(small, output, fault=fault, effect=effect, ids=ids)

    def test_photo_that_is_a_link_to_elsewhere(self, small, output, tmp_path):
        (tmp_path / "store").mkdir()
        photo(small, 2).rename(tmp_path / "store" / "x.jpg")
        photo(small, 2).symlink_to(tmp_path / "store" / "x.jpg")
        fault = "the photo is a link that leads out of the photos' location"
        self.has(small, output, fault=fault, effect="stops", ids=[photo(small, 2).name])
        cure = json.loads(output.with_name(f"{output.name}.check.json").read_text())["faults"][0]["cure"]
        assert "cp -L" in cure

    def test_photo_name_that_leads_out(self, small, output):
        small.content["images"][1]["file_name"] = "../secret.jpg"
        fault = "the name leads out of the photos' location"
        self.has(small, output, fault=fault, effect="stops", ids=["../secret.jpg"], limit=1)

    def test_photo_that_no_sample_needs(self, small, output):
        """The build with this limit, or of these persons alone, goes through, so this is no error."""
        photo(small, 5).unlink()
        fault = "photo absent (no sample is made of it)"
        self.has(small, output, fault=fault, effect="kept", ids=[photo(small, 5).name], limit=2)
        small.content["annotations"] = small.content["annotations"][:-2]
        self.has(small, output, fault=fault, effect="kept", ids=[photo(small, 5).name])


class TestReport:
    def test_errors_come_first(self, small, output):
        small.content["annotations"][2]["iscrowd"] = 1
        rotated(photo(small, 1))
        photo(small, 3).unlink()
        table, _, faults = looked_at(small, output)
        assert [fault["effect"] for fault in faults.values()] == ["stops", "dropped", "kept"]
        order = [table.index(word) for word in ("ERROR", "dropped", "noted")]
        assert order == sorted(order)

    def test_all_ids_stand_in_the_json_and_some_in_the_table(self, make_set, output):
        small = make_set(photos=8)
        for path in small.images.iterdir():
            path.write_bytes(b"")
        table, _, faults = looked_at(small, output)
        names = [f"{number:012d}.jpg" for number in range(1, 9)]
        assert faults["photo cannot be decoded"]["ids"] == names
        assert names[4] in table
        assert names[5] not in table

    @pytest.mark.parametrize("workers", [1, 2])
    def test_workers_give_the_same(self, small, output, workers):
        photo(small, 3).write_bytes(b"")
        _, _, faults = looked_at(small, output, workers=workers)
        assert faults["photo cannot be decoded"]["ids"] == [photo(small, 3).name]

    def test_nobody_left_is_an_error_too(self, small, output):
        small.content["annotations"] = []
        small.save()
        with pytest.raises(InputError, match="no person is left to store"):
            check(small.settings(output), console=Console(quiet=True))

    def test_no_photo_left_is_an_error_too(self, small, output):
        for path in small.images.iterdir():
            path.write_bytes(b"")
        with pytest.raises(InputError, match="every photo is damaged"):
            check(small.settings(output, corrupt_images="skip"), console=Console(quiet=True))

    def test_sheet_beside_it(self, small, output):
        looked_at(small, output)
        with Image.open(beside(output, "check.jpg")) as sheet:
            assert sheet.width > 4 * TILE_WH[0]
            assert sheet.height > 3 * TILE_WH[1]

    def test_nothing_else_is_written(self, small, output):
        looked_at(small, output)
        assert sorted(path.name for path in output.parent.iterdir()) == [
            "small.check.jpg",
            "small.check.json",
        ]


def test_builds_count_what_is_noted(small, output, quiet):
    small.content["annotations"][5]["keypoints"][:3] = [250, 20, 1]
    small.save()
    manifest = build(small.settings(output), console=quiet)
    assert manifest.problems == {
        "labelled joint outside the photo": 1,
        "joints and box do not fit each other": 1,
    }


def test_command_exits_2_on_errors_and_0_without(small, output):
    recipe = small.folder / "recipe.yaml"
    recipe.write_text(
        f"source: {{name: coco, annotations: {small.annotations}, images: {small.images}}}\n"
        f"output: {output}\nworkers: 1\n"
    )
    script = [sys.executable, str(BUILD), str(recipe), "check=only"]
    right = subprocess.run(script, capture_output=True, text=True, check=False)
    assert right.returncode == 0, right.stderr
    photo(small, 3).unlink()
    wrong = subprocess.run(script, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "ERROR" in wrong.stdout
    assert "small: faults stop this build (photo absent)" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["train", "val"])
def test_real_coco_has_no_error(shared_data, output, name, quiet):
    folder = shared_data / "coco"
    source = CocoFormat(
        annotations=folder / "annotations" / f"person_keypoints_{name}2017_joined.json",
        images=folder / "images" / f"{name}2017",
    )
    check(BuildSettings(source=source, output=output, workers=1), console=quiet)
    faults = json.loads(beside(output, "check.json").read_text())["faults"]
    assert {fault["effect"] for fault in faults} <= {"dropped", "kept"}
    assert sum(fault["count"] for fault in faults if fault["effect"] == "kept") < 10  # of 538 and 619 people


def test_joints_of_photos_without_an_annotated_size(shared_data, output):
    """LSPET gives no sizes: they are those of the photos looked at."""
    folder = shared_data / "lspet"
    joints = scipy.io.loadmat(folder / "joints.mat")["joints"][:, :, :3].copy()
    joints[5, :2, 1] = 300, 20
    joints[5, 2, 1] = 1
    output.parent.mkdir()
    scipy.io.savemat(output.parent / "joints.mat", {"joints": joints})
    source = LspFormat(joints=output.parent / "joints.mat", images=folder / "images")
    check(BuildSettings(source=source, output=output, workers=1), console=Console(quiet=True))
    faults = json.loads(beside(output, "check.json").read_text())["faults"]
    assert [(fault["fault"], fault["ids"]) for fault in faults] == [("labelled joint outside the photo", [2])]


@pytest.mark.parametrize(("limit", "ids"), [(None, [2]), (1, None)])
def test_box_outside_a_photo_without_an_annotated_size(small, output, quiet, limit, ids):
    """AI Challenger's list gives no sizes; a build stops at such a box, unless it stores nothing of it."""
    joints = {"human1": [10, 20, 1] * 14}
    boxes = {photo(small, 1).stem: [5, 10, 45, 90], photo(small, 2).stem: [905, 910, 945, 990]}
    rows = [
        {"image_id": name, "keypoint_annotations": joints, "human_annotations": {"human1": box}}
        for name, box in boxes.items()
    ]
    (small.folder / "list.json").write_text(json.dumps(rows))
    source = AicFormat(annotations=small.folder / "list.json", images=small.images)
    settings = BuildSettings(source=source, output=output, workers=1, limit=limit)
    if ids is None:
        check(settings, console=quiet)
        build(settings, console=quiet)
    else:
        with pytest.raises(InputError, match=r"faults stop this build \(box outside the photo\):"):
            check(settings, console=quiet)
        with pytest.raises(InputError, match="the box of annotation 2 is outside the photo"):
            build(settings, console=quiet)
    faults = json.loads(beside(output, "check.json").read_text())["faults"]
    assert [fault["ids"] for fault in faults if fault["fault"] == "box outside the photo"] == (
        [ids] if ids else []
    )


class TestWarnings:
    """What most people of a file have is said in the table, before the samples, and in a last line."""

    @pytest.fixture
    def corners(self, small):
        for row in small.content["annotations"]:
            x, y, width, height = row["bbox"]
            row["bbox"] = [x, y, x + width, y + height]
        small.save()
        return small

    def told(self, command, settings):
        console = Console(file=io.StringIO(), width=200)
        command(settings, console=console)
        return [line for line in console.file.getvalue().splitlines() if line.strip()]

    @pytest.mark.parametrize("command", [check, build])
    def test_come_first_and_last(self, corners, output, command):
        lines = self.told(command, corners.settings(output))
        places = [index for index, line in enumerate(lines) if "WARNING" in line]
        in_table, last = (lines[places[0]], lines[places[-1]])
        assert len(places) == 2
        assert "box looks like corners (x1, y1, x2, y2)" in in_table
        assert places[-1] == len(lines) - 1
        words = r"WARNING: .*annotations\.json: annotation \d+: box looks like corners .*: correct the boxes"
        assert re.match(words, last)
        if command is build:
            assert places[0] < next(index for index, line in enumerate(lines) if "samples" in line)

    def test_are_repeated_at_the_end_of_the_build(self, corners, output):
        settings = corners.settings(output)
        first = self.told(build, settings)
        again = self.told(build, settings)
        assert "exists already" in again[0]
        assert again[-1] == first[-1]

    def test_stand_in_manifest_and_json(self, corners, output, quiet):
        manifest = build(corners.settings(output), console=quiet)
        what = "box looks like corners (x1, y1, x2, y2)"
        count = manifest.problems[what]
        assert count >= 5
        _, _, faults = looked_at(corners, output)
        assert faults[what]["effect"] == "warned"
        assert len(faults[what]["ids"]) == count


def test_notes_that_follow_from_the_people_do_not_make_another_build(small, output):
    """Shards made before such notes were looked for stay those of the same annotations and settings."""
    annotations = small.source.read()
    before = identify(small.settings(output), annotations)
    fault = Fault("seen anew", "kept", is_identity=False)
    annotations.findings.add(fault, 10)
    assert identify(small.settings(output), annotations) == before
    annotations.findings.add(Fault("of the file", "kept"), 10)
    assert identify(small.settings(output), annotations) != before
