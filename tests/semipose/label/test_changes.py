"""What labellers change, what tools lose, and files that cannot be read."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from semipose.configs.errors import InputError
from semipose.label import command
from semipose.label.labels import PhotosByName
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from tests.semipose.label.drawn import FORMATS, bring_in, export_of, people_of, send_out, write_predictions


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_predictions(tmp_path / "predictions")


def words(folder: Path, source: Path) -> list[str]:
    return [f"sent={folder / 'sent.json'}", f"images={source / 'photos'}"]


def test_changes_in_cvat_are_counted_and_merged(source: Path, tmp_path: Path) -> None:
    mine = source / "keypoints.json"
    folder = send_out(source, tmp_path / "out", "format=cvat")
    tree = ElementTree.parse(folder / "annotations.xml")
    image = tree.find("image")
    assert image is not None
    first, second, _ = image.findall("skeleton")
    x, y = map(float, first[0].get("points", "").split(","))
    first[0].set("points", f"{x + 3:.2f},{y + 4:.2f}")
    first[0].set("occluded", "1")
    image.remove(second)
    tree.write(folder / "annotations.xml")
    merged, said = bring_in(folder / "annotations.xml", mine, *words(folder, source))
    assert "people: 5 came back, 0 were added, 1 were removed (7)" in said
    assert "1 keypoints moved by 5.0 px in the median, 1 have another visibility" in said
    by_id = {row["id"]: row for row in merged["annotations"]}
    assert sorted(by_id) == [3, 19, 23, 30, 41]
    np.testing.assert_allclose(by_id[41]["keypoints"][:3], [x + 3, y + 4, 1], atol=0.01)


def test_a_box_that_became_the_extent_of_the_keypoints_is_given_back(source: Path, tmp_path: Path) -> None:
    """CVAT's COCO export gives new ids, and boxes around the keypoints."""
    folder = send_out(source, tmp_path / "out", "format=coco")
    exported = json.loads((folder / "annotations.json").read_text())
    for number, row in enumerate(exported["annotations"], start=1):
        points = np.reshape(row["keypoints"], (-1, 3))
        xy = points[points[:, 2] > 0, :2]
        row["bbox"] = [*xy.min(axis=0), *(xy.max(axis=0) - xy.min(axis=0))]
        row["id"], row["attributes"] = number, {}
    (folder / "annotations.json").write_text(json.dumps(exported))
    before = json.loads((source / "keypoints.json").read_text())
    merged, said = bring_in(folder / "annotations.json", source / "keypoints.json", *words(folder, source))
    assert "boxes: 6 people have the box back" in said
    for name, rows in people_of(before).items():
        for row, other in zip(rows, people_of(merged)[name], strict=True):
            assert row["id"] == other["id"]
            np.testing.assert_allclose(other["bbox"], row["bbox"], atol=0.1)


def test_areas_of_the_file_stay_and_new_people_get_that_of_the_project(source: Path, tmp_path: Path) -> None:
    """OKS divides by the area, so a round trip must not move any score."""
    mine = source / "keypoints.json"
    content = json.loads(mine.read_text())
    for row in content["annotations"]:
        row["area"], row["segmentation"] = 1234.5 + row["id"], [[1, 2, 3, 4, 5, 6]]
    mine.write_text(json.dumps(content))
    folder = send_out(source, tmp_path / "out", "format=coco")
    export = json.loads((folder / "annotations.json").read_text())
    for row in export["annotations"]:
        if row["id"] == 41:
            row["bbox"][2] *= 2  # the box was wrong
    added = {"id": 900, "image_id": 4, "category_id": 7, "bbox": [10, 20, 50, 100], "iscrowd": 0}
    export["annotations"].append({**added, "keypoints": [30, 60, 2] * 17, "attributes": {}})
    (folder / "annotations.json").write_text(json.dumps(export))
    merged, _ = bring_in(folder / "annotations.json", mine, *words(folder, source))
    rows = {row["id"]: row for row in merged["annotations"]}
    for row in content["annotations"]:
        times = 2 if row["id"] == 41 else 1
        assert rows[row["id"]]["area"] == pytest.approx(times * row["area"], rel=1e-3)
        assert rows[row["id"]]["segmentation"] == row["segmentation"]
    (new,) = set(rows) - {row["id"] for row in content["annotations"]}
    assert rows[new]["area"] == pytest.approx(AREA_OF_BOX * 50 * 100)


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_trip_changes_no_row_that_nobody_changed(form: str, source: Path, tmp_path: Path) -> None:
    """Neither boxes and keypoints beyond the photo, which do not go out, nor values that nobody reads."""
    mine = source / "keypoints.json"
    content = json.loads(mine.read_text())
    first, second = content["annotations"][:2]
    first["bbox"] = [-12.5, 20.5, 112.875, 250.0]  # beyond the left and the lower edge of 332 x 207
    first["keypoints"][:3], second["keypoints"][3:6] = [-40.5, 5.25, 2], [50.5, 300.25, 1]
    for row in content["annotations"]:
        row |= {"area": 321.5, "segmentation": [[1, 2, 3, 4, 5, 6]], "colour": "red"}
        row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
        del row["peaks"], row["score"]
    mine.write_text(json.dumps(content))
    folder = send_out(source, tmp_path / "out", f"format={form}")
    merged, said = bring_in(export_of(folder, form), mine, *words(folder, source))
    assert "0 keypoints moved" in said
    for row, other in zip(content["annotations"], merged["annotations"], strict=True):
        assert other.pop("keypoints") == pytest.approx(row.pop("keypoints"), abs=0.01)
        assert other == row


def test_people_of_every_category_with_these_keypoints_keep_their_places(
    source: Path, tmp_path: Path
) -> None:
    """The shards read such categories together."""
    mine = source / "keypoints.json"
    content = json.loads(mine.read_text())
    names = content["categories"][0]["keypoints"]
    content["categories"].append({"id": 9, "name": "acrobat", "keypoints": names})
    for row in content["annotations"][1:3]:
        row["category_id"] = 9
    mine.write_text(json.dumps(content))
    folder = send_out(source, tmp_path / "out", "format=coco")
    export = json.loads((folder / "annotations.json").read_text())
    moved = next(row for row in export["annotations"] if row["id"] == content["annotations"][1]["id"])
    moved["keypoints"][:3] = [150, 60, 2]
    (folder / "annotations.json").write_text(json.dumps(export))
    merged, said = bring_in(folder / "annotations.json", mine, *words(folder, source))
    assert "6 came back, 0 were added, 0 were removed" in said
    assert len(merged["annotations"]) == 6
    for row, other in zip(content["annotations"], merged["annotations"], strict=True):
        assert other["category_id"] == row["category_id"]
        expected = row["keypoints"]
        if row["id"] == moved["id"]:
            expected = [150, 60, 2, *expected[3:]]
        assert other["keypoints"] == pytest.approx(expected, abs=0.01)


def test_ids_that_are_written_as_text_or_with_a_fraction_are_read_and_kept(
    source: Path, tmp_path: Path
) -> None:
    mine = source / "keypoints.json"
    content = json.loads(mine.read_text())
    for row in content["images"]:
        row["id"] = str(row["id"])
    for row in content["annotations"]:
        row["id"], row["image_id"] = float(row["id"]), str(row["image_id"])
    mine.write_text(json.dumps(content))
    folder = send_out(source, tmp_path / "out", "format=coco")
    merged, said = bring_in(folder / "annotations.json", mine, *words(folder, source))
    assert "6 came back, 0 were added, 0 were removed" in said
    assert [row["id"] for row in merged["annotations"]] == [row["id"] for row in content["annotations"]]
    merged["annotations"][0].pop("id")
    mine.write_text(json.dumps(merged))
    with pytest.raises(InputError, match=r"keypoints\.json: id is None in a row, and no whole number"):
        bring_in(folder / "annotations.json", mine, *words(folder, source))


def test_a_link_to_the_file_stays_a_link(source: Path, tmp_path: Path) -> None:
    folder = send_out(source, tmp_path / "out", "format=coco")
    real, link = tmp_path / "real" / "my.json", tmp_path / "link.json"
    real.parent.mkdir()
    shutil.copy(source / "keypoints.json", real)
    link.symlink_to(real)
    export = json.loads((folder / "annotations.json").read_text())
    export["annotations"][0]["keypoints"][:3] = [77, 66, 1]
    (folder / "annotations.json").write_text(json.dumps(export))
    bring_in(folder / "annotations.json", link, *words(folder, source))
    assert link.is_symlink()
    assert json.loads(real.read_text())["annotations"][0]["keypoints"][:3] == [77, 66, 1]


def test_a_photo_is_found_by_the_end_of_its_path_alone() -> None:
    photos = PhotosByName({"clip1/1.png": "one", "./clip2/1.png": "two", "a.png": "a"}, Path("my.json"))
    assert photos.find("clip1/1.png") == photos.find("data\\clip1\\1.png") == "one"
    assert photos.find("photos/clip2/1.png") == "two"
    assert photos.find("elsewhere/a.png") == "a"
    assert photos.find("clip3/1.png") is photos.find("b.png") is None
    with pytest.raises(InputError, match=r"my\.json: 1\.png may be clip1/1\.png or clip2/1\.png: "):
        photos.find("1.png")


def test_people_of_a_photo_that_the_file_lacks_are_not_given_to_another(source: Path, tmp_path: Path) -> None:
    """The file has other/b_0001.png, and clip/b_0001.png came back."""
    mine = source / "keypoints.json"
    folder = send_out(source, tmp_path / "out", "format=coco")
    mine.write_text(mine.read_text().replace("clip/b_0001.png", "other/b_0001.png"))
    (source / "photos" / "other").mkdir()
    shutil.copy(source / "photos" / "a.png", source / "photos" / "other" / "b_0001.png")
    merged, _ = bring_in(folder / "annotations.json", mine, *words(folder, source))
    names = {row["id"]: row["file_name"] for row in merged["images"]}
    people = [names[row["image_id"]] for row in merged["annotations"]]
    assert sorted(people) == [*["a.png"] * 3, "clip/b_0001.png", *["clip/b_0002.png"] * 2, "other/b_0001.png"]


def test_a_photo_found_under_a_shorter_name_must_be_the_one_that_went_out(
    source: Path, tmp_path: Path
) -> None:
    folder = send_out(source, tmp_path / "out", "format=coco")
    mine = source / "keypoints.json"
    mine.write_text(mine.read_text().replace("clip/b_0001.png", "b_0001.png"))
    shutil.copy(source / "photos" / "a.png", source / "photos" / "b_0001.png")
    with pytest.raises(InputError, match=r"b_0001\.png: this is another photo than the one that went out"):
        bring_in(folder / "annotations.json", mine, *words(folder, source))


def test_photos_that_differ_in_their_ending_do_not_go_out_for_yolo(source: Path, tmp_path: Path) -> None:
    mine = source / "keypoints.json"
    mine.write_text(mine.read_text().replace("empty.png", "a.jpg"))
    shutil.copy(source / "photos" / "a.png", source / "photos" / "a.jpg")
    with pytest.raises(InputError, match=r"^a\.jpg: in the YOLO format its labels are in labels"):
        send_out(source, tmp_path / "out", "format=yolo")


def test_labels_of_another_folder_are_not_those_of_a_photo_with_the_same_name(
    source: Path, tmp_path: Path
) -> None:
    mine = source / "keypoints.json"
    mine.write_text(mine.read_text().replace("clip/b_0002.png", "more/b_0001.png"))
    (source / "photos" / "more").mkdir()
    shutil.copy(source / "photos" / "clip" / "b_0002.png", source / "photos" / "more" / "b_0001.png")
    folder = send_out(source, tmp_path / "out", "format=yolo")
    next((folder / "labels").rglob("more/b_0001.txt")).unlink()
    merged, said = bring_in(folder, tmp_path / "new.json", *words(folder, source))
    assert "1 photos did not come back labelled and stay as they were: more/b_0001.png" in said
    assert len(merged["annotations"]) == 4


def test_a_task_that_nobody_submitted_changes_nothing(source: Path, tmp_path: Path) -> None:
    folder = send_out(source, tmp_path / "out", "format=label-studio")
    export = export_of(folder, "label-studio")
    tasks = json.loads(export.read_text())
    tasks[0]["annotations"] = []
    export.write_text(json.dumps(tasks))
    merged, said = bring_in(export, tmp_path / "my.json", *words(folder, source))
    assert "1 photos did not come back labelled and stay as they were: a.png" in said
    assert len(merged["annotations"]) == 3


def edit_names(folder: Path) -> None:
    text = (folder / "annotations.json").read_text()
    (folder / "annotations.json").write_text(text.replace('"nose"', '"beak"'))


def repeat_photo(folder: Path) -> None:
    content = json.loads((folder / "annotations.json").read_text())
    content["images"].append({**content["images"][0], "id": 99})
    (folder / "annotations.json").write_text(json.dumps(content))


def lose_people(folder: Path) -> None:
    content = json.loads((folder / "annotations.json").read_text())
    content["annotations"] = content["annotations"][:2]
    (folder / "annotations.json").write_text(json.dumps(content))


def write_another_tools_file(folder: Path) -> None:
    (folder / "annotations.json").write_text("image,x,y\n")


def write_a_half_file(folder: Path) -> None:
    (folder / "annotations.json").write_text('[{"data": {"ima')


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (edit_names, "another skeleton (without 'nose'; with 'beak')"),
        (repeat_photo, "the photo a.png is there twice"),
        (lose_people, "4 of 6 people are gone"),
        (write_another_tools_file, "this is no export of CVAT"),
        (write_a_half_file, "this is no whole JSON file"),
    ],
)
def test_a_fault_is_one_sentence_and_leaves_the_file_as_it_is(fault, sentence, source, tmp_path) -> None:
    folder = send_out(source, tmp_path / "out", "format=coco")
    fault(folder)
    mine = source / "keypoints.json"
    before = mine.read_bytes()
    with pytest.raises(InputError) as error:
        bring_in(folder / "annotations.json", mine, *words(folder, source))
    assert sentence in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert mine.read_bytes() == before


def test_people_of_photos_that_are_not_there_are_refused_until_they_are(source: Path, tmp_path: Path) -> None:
    """The photos to label were in another folder than those of the file."""
    folder = send_out(source, tmp_path / "out", "format=coco")
    export = json.loads((folder / "annotations.json").read_text())
    for row in export["annotations"]:
        if row["image_id"] == 2:  # people without a labelled keypoint need their photo as well
            row["keypoints"] = [0] * len(row["keypoints"])
    (folder / "annotations.json").write_text(json.dumps(export))
    mine, photos = tmp_path / "my.json", tmp_path / "mine"
    photos.mkdir()
    options = [f"sent={folder / 'sent.json'}", f"images={photos}"]
    with pytest.raises(InputError, match=r"mine: 3 of the 3 photos with people are not here, such as a\.png"):
        bring_in(folder / "annotations.json", mine, *options)
    assert not mine.exists()
    shutil.copytree(folder / "photos", photos, dirs_exist_ok=True)
    shutil.copy(photos / "clip" / "b_0001.png", photos / "a.png")  # the name was taken
    with pytest.raises(InputError, match=r"a\.png: this is another photo than the one that went out"):
        bring_in(folder / "annotations.json", mine, *options)
    shutil.copy(folder / "photos" / "a.png", photos)
    merged, _ = bring_in(folder / "annotations.json", mine, *options)
    assert len(merged["annotations"]) == 6


def test_a_file_that_was_not_there_is_said_to_be_new(source: Path, tmp_path: Path) -> None:
    """It may be a slip of the pen."""
    folder = send_out(source, tmp_path / "out", "format=coco")
    new = tmp_path / "nope.json"
    _, said = bring_in(folder / "annotations.json", new, *words(folder, source))
    assert f"{new}: this file was not there, so it is a new one" in " ".join(said.split())
    _, said = bring_in(folder / "annotations.json", new, *words(folder, source))
    assert f"{new}: merged" in said


def test_keypoints_outside_of_the_photo_are_not_labelled(source: Path, tmp_path: Path) -> None:
    file = source / "keypoints.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["keypoints"][:3] = [-40, 5, 2]
    file.write_text(json.dumps(content))
    sent = json.loads((send_out(source, tmp_path / "out", "format=yolo") / "sent.json").read_text())
    assert sent["annotations"][0]["keypoints"][2] == 0
    for path in (tmp_path / "out" / "labels").rglob("*.txt"):
        numbers = [float(word) for word in path.read_text().split()]
        assert all(0 <= number <= 2 for number in numbers)


def test_out_says_how_many_keypoints_go_out_and_what_decides_it(source: Path, tmp_path: Path, capsys) -> None:
    file = source / "keypoints.json"
    content = json.loads(file.read_text())
    labelled = sum(v > 0 for row in content["annotations"] for v in row["keypoints"][2::3])
    command.main(["out", str(source), "format=coco", f"output={tmp_path / 'some'}"])
    said = capsys.readouterr().err
    assert f"6 people with {labelled} keypoints in 4 photos for coco" in " ".join(said.split())
    assert "min_peak" not in said
    for row in content["annotations"]:
        row["keypoints"][2::3] = [0] * 17
    file.write_text(json.dumps(content))
    command.main(["out", str(source), "format=coco", f"output={tmp_path / 'none'}"])
    said = " ".join(capsys.readouterr().err.split())
    assert "6 people with 0 keypoints" in said
    assert "no keypoint goes out, because those with a peak below min_peak of the prediction do not" in said


@pytest.mark.parametrize("strategy", ["spread", "uncertain", "random"])
def test_next_chooses_photos_and_writes_list_copies_and_a_sheet(strategy, source, tmp_path) -> None:
    output = tmp_path / "next"
    options = [f"strategy={strategy}", f"images={source / 'photos'}", f"output={output}", "n=2"]
    command.main(["next", str(source), *options])
    lines = (output / "next.csv").read_text().splitlines()
    assert len(lines) == 3
    chosen = json.loads((output / "keypoints.json").read_text())["images"]
    assert all((output / "photos" / image["file_name"]).is_file() for image in chosen)
    assert (output / "sheet-01.jpg").is_file()
    if strategy == "uncertain":
        rows = json.loads((source / "keypoints.json").read_text())
        least = {}
        for row in rows["annotations"]:
            mean = np.mean(row["peaks"])
            least[row["image_id"]] = min(mean, least.get(row["image_id"], 1.0))
        names = {image["id"]: image["file_name"] for image in rows["images"]}
        expected = [names[image] for image in sorted(least, key=lambda image: least[image])[:2]]
        assert [image["file_name"] for image in chosen] == expected


def test_next_takes_few_of_a_sequence_and_none_that_is_labelled(source: Path, tmp_path: Path) -> None:
    command.main(["next", str(source), f"output={tmp_path / 'one'}", "per_sequence=1", "n=3"])
    names = [row["file_name"] for row in json.loads((tmp_path / "one/keypoints.json").read_text())["images"]]
    assert len([name for name in names if name.startswith("clip/")]) == 1
    assert "a.png" in names
    with pytest.raises(SystemExit) as stop:
        command.main(
            ["next", str(source), f"output={tmp_path / 'none'}", f"labelled={source / 'keypoints.json'}"]
        )
    assert stop.value.code == 2


def test_next_predicts_photos_with_a_model(run_folder: Path, source: Path, tmp_path: Path) -> None:
    options = ["predict.people.name=whole", f"output={tmp_path / 'next'}", "n=2"]
    command.main(["next", str(run_folder), str(source / "photos"), *options])
    assert len((tmp_path / "next" / "next.csv").read_text().splitlines()) == 3
    assert (tmp_path / "next" / "sheet-01.jpg").is_file()


def test_next_leaves_a_folder_of_other_files_alone(source: Path, tmp_path: Path, capsys) -> None:
    """Its own folder is written again."""
    for _ in range(2):
        command.main(["next", str(source), f"output={tmp_path / 'next'}", "n=2"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keypoints.json").write_text("years of work")
    with pytest.raises(SystemExit) as stop:
        command.main(["next", str(source), f"output={tmp_path / 'mine'}", "n=2"])
    assert stop.value.code == 2
    assert "the folder holds something else (keypoints.json)" in " ".join(capsys.readouterr().err.split())
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"keypoints.json"}
