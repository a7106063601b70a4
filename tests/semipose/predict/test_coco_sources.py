"""COCO files as what to predict and as boxes: whose boxes count, of which photo they are, what is said."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.configs.load import load
from semipose.predict import boxes
from semipose.predict.box_file import boxes_of_file
from semipose.predict.boxes import FileBoxes
from semipose.predict.command import predict_sources
from semipose.predict.settings import PredictSettings
from semipose.predict.sources import find_work
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.skeleton import COCO_17, LSP_14

LSP, COCO = list(LSP_14.names), list(COCO_17.names)
PERSON = {"id": 1, "name": "person", "keypoints": LSP}
BOWL = {"id": 51, "name": "bowl"}
SIZE = {"width": 60, "height": 80}


def box_row(number: int, image: Any, x: int, category: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "bbox": [x, 5, 21, 31], "category_id": category, **more}


@pytest.fixture
def write_coco(write_photo, tmp_path):
    """`write_coco(rows, categories, ...)` writes a COCO file of the photos 1.jpg and 2.jpg of `tmp_path`."""
    for number in (1, 2):
        write_photo(tmp_path / f"{number}.jpg", 60, 80, seed=number)

    def write(
        annotations: list[dict[str, Any]],
        categories: list[dict[str, Any]] | None = None,
        images: list[dict[str, Any]] | None = None,
        name: str = "my.json",
    ) -> Path:
        default = [{"id": number, "file_name": f"{number}.jpg", **SIZE} for number in (1, 2)]
        content = {"images": default if images is None else images, "annotations": annotations}
        path = tmp_path / name
        path.write_text(json.dumps(content if categories is None else content | {"categories": categories}))
        return path

    return write


def lefts(path: Path, keypoints: list[str] = LSP) -> list[list[float]]:
    """The left sides of the boxes of each photo."""
    items = find_work([str(path)], keypoints=keypoints).photos
    return [[] if item.boxes is None else item.boxes.xywh[:, 0].tolist() for item in items]


def run(run_folder: Path, source: Path, output: Path, *words: str) -> tuple[list[dict[str, Any]], str]:
    """The annotations that the command gives, and what it prints."""
    said = io.StringIO()
    cfg = load(PredictSettings, None, [f"output={output}", "draw=false", *words])
    predict_sources(str(run_folder), [str(source)], cfg, Console(file=said, soft_wrap=True))
    return json.loads((output / "keypoints.json").read_bytes())["annotations"], said.getvalue()


def test_boxes_that_nobody_can_find_are_asked_for_before_anything_is_written(
    run_folder, write_coco, tmp_path, monkeypatch
) -> None:
    """The model's category is dancer, here of no known class. What is given needs no detector."""
    monkeypatch.setattr(boxes, "class_of", lambda *_: None)
    given = write_coco([box_row(1, 1, 5)])
    with pytest.raises(
        InputError, match="the category 'dancer', for which torchvision's detector has no class"
    ):
        run(run_folder, tmp_path / "1.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(run(run_folder, tmp_path / "1.jpg", tmp_path / "out", "people.name=whole")[0]) == 1
    assert len(run(run_folder, given, tmp_path / "given")[0]) == 1


MIXED = [box_row(1, 1, 5), box_row(2, 1, 20, 51), box_row(3, 2, 30, 51), box_row(4, 2, 10)]


def test_only_boxes_of_people_are_predicted_and_the_others_are_counted(
    run_folder, write_coco, tmp_path
) -> None:
    path = write_coco(MIXED, [PERSON, BOWL])
    said = f"note: boxes of other categories than person are left out: 2 of 4 in {path}"
    people, printed = run(run_folder, path, tmp_path / "1")
    assert sorted(row["bbox"][0] for row in people) == [5, 10]
    assert said in printed
    people, printed = run(
        run_folder, tmp_path / "1.jpg", tmp_path / "2", "people.name=boxes", f"people.file={path}"
    )
    assert [row["bbox"][0] for row in people] == [5]
    assert said in printed
    assert "left out" not in run(run_folder, path, tmp_path / "3", "people.name=whole")[1]


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([{**PERSON, "keypoints": COCO}, {**BOWL, "keypoints": LSP}], [[20], [30]]),
        ([{**PERSON, "keypoints": COCO}, BOWL], [[5], [10]]),
        ([PERSON, {**BOWL, "keypoints": LSP[::-1]}], [[5, 20], [30, 10]]),
        ([{"id": 1, "name": "person"}, BOWL], [[5, 20], [30, 10]]),
        ([], [[5, 20], [30, 10]]),
    ],
    ids=["the model's keypoints", "any keypoints", "both have them", "none has any", "no category"],
)
def test_the_categories_of_people_are_those_with_the_models_keypoints_or_else_any(
    categories, expected, write_coco
) -> None:
    assert lefts(write_coco(MIXED, categories)) == expected


def test_a_box_without_a_category_counts_where_there_is_no_other_category(write_coco) -> None:
    rows = [box_row(1, 1, 5, None), box_row(2, 2, 10)]
    assert lefts(write_coco(rows, [PERSON])) == [[5], [10]]
    assert lefts(write_coco(rows, [PERSON, BOWL])) == [[], [10]]


@pytest.mark.parametrize("size", [SIZE, {}], ids=["sizes", "no sizes"])
def test_results_name_a_photo_of_a_coco_file_by_its_id_there(run_folder, write_coco, tmp_path, size) -> None:
    """The ids are 2 for 1.jpg and 1 for 2.jpg, so numbers of file names would exchange the boxes."""
    images = [{"id": 3 - number, "file_name": f"{number}.jpg", **size} for number in (1, 2)]
    path = write_coco([], images=images)
    results = tmp_path / "boxes.json"
    results.write_text(json.dumps([box_row(0, 2, 5), box_row(0, 1, 20)]))
    words = ("people.name=boxes", f"people.file={results}")
    people, _ = run(run_folder, path, tmp_path / "out", *words)
    assert {row["image_id"]: row["bbox"][0] for row in people} == {2: 5, 1: 20}
    results.write_text(json.dumps([box_row(0, 7, 5)]))
    with pytest.raises(InputError, match="an `image_id` that is its id in the COCO file"):
        run(run_folder, path, tmp_path / "none", *words)


def test_results_name_photos_of_several_coco_files_by_their_ids_there(write_coco, tmp_path) -> None:
    """They get other ids in what is written, as those of both files could be the same."""
    lists = [
        write_coco([], images=[{"id": 10 + n, "file_name": f"{n}.jpg"}], name=f"{n}.json") for n in (1, 2)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps([box_row(0, 12, 5), box_row(0, 11, 20)]))
    photos = find_work([str(path) for path in lists]).photos
    found = boxes_of_file(FileBoxes(file=tmp_path / "boxes.json"), photos, LSP, [])
    assert [(item.file_name, each.xywh[0, 0]) for item, each in zip(photos, found, strict=True)] == [
        ("1/1.jpg", 20),
        ("2/2.jpg", 5),
    ]


def test_boxes_of_results_that_do_not_count_are_said_with_the_settings_of_the_command(
    run_folder, write_coco, tmp_path
) -> None:
    path, results = write_coco([]), tmp_path / "boxes.json"
    words = ("people.name=boxes", f"people.file={results}", "people.min_score=0.5")
    for row, why in (
        (box_row(0, 1, 5, 3), r"no box is of category 1 \(people\.category\).*give people\.category=3"),
        (box_row(0, 1, 5, score=0.2), r"has a score of 0\.5 \(people\.min_score\).*lower people\.min_score"),
    ):
        results.write_text(json.dumps([row]))
        with pytest.raises(InputError, match=why):
            run(run_folder, path, tmp_path / "none", *words)
    small = {"image_id": 1, "bbox": [0.2, 0.1, 0.4, 0.7]}  # a share of the photo
    rows = [box_row(0, 1, 5), box_row(0, 1, 6, 3), box_row(0, 1, 7, score=0.2), box_row(0, 2, 8, 3), small]
    results.write_text(json.dumps(rows))
    people, said = run(run_folder, path, tmp_path / "out", *words)
    assert [row["bbox"][0] for row in people] == [5]
    assert f"note: boxes of {results} are left out: 2 box of another category than people.category; " in said
    assert "1 box of a lower score than people.min_score; 1 box no larger than a pixel" in said


def test_spellings_that_builds_of_shards_read_are_read(run_folder, write_coco, tmp_path) -> None:
    plain = write_coco([box_row(1, 1, 5), box_row(2, 2, 10)], [PERSON], name="plain.json")
    images = [{"id": f"0{n}", "file_name": f"/mnt/anna/photos/{n}.jpg", **SIZE} for n in (1, 2)]
    rows = [
        box_row(1, "01", 5, "1", iscrowd=False, score=None, keypoints=[[0, 0, None]] * 14),
        box_row(2, 2.0, 10, 1.0, iscrowd=None),
        box_row(3, 2, 20, iscrowd=True),
        {**box_row(4, 2, 0), "bbox": [None] * 4},
        {**box_row(5, 2, 0), "bbox": []},
    ]
    spelt = write_coco(rows, [{**PERSON, "id": "1"}], [*images, images[0]], name="spelt.json")
    for path in (plain, spelt):
        CocoStyleFormat(annotations=path, images=tmp_path).read().findings.raise_errors()
    expected, _ = run(run_folder, plain, tmp_path / "plain")
    assert [(row["image_id"], row["bbox"][0]) for row in expected] == [(1, 5), (2, 10)]
    assert run(run_folder, spelt, tmp_path / "spelt")[0] == expected
    words = ("people.name=boxes", f"people.file={spelt}")
    assert run(run_folder, plain, tmp_path / "boxes", *words)[0] == expected


@pytest.mark.parametrize(
    ("images", "rows", "why"),
    [
        (
            [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "./1.jpg"}],
            [],
            r"my\.json: the images 1 and 2 are one photo, \./1\.jpg: list it once, and give its annotations",
        ),
        (
            [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}],
            [],
            r"my\.json: image 1: two different rows have this image id: make the ids unique",
        ),
        (
            None,
            [{"id": 8, "image_id": 1, "bbox": [1, 2, 3]}],
            r"my\.json: annotation 8: bbox must be a list of 4 numbers \(found 3\)",
        ),
        (None, [{"id": 8, "bbox": [1, 2, 3, 4]}], r"my\.json: annotation 8: .*`image_id`"),
    ],
)
def test_rows_of_a_coco_file_that_cannot_be_read_are_named(images, rows, why, write_coco) -> None:
    with pytest.raises(InputError, match=why):
        find_work([str(write_coco(rows, images=images))])


def test_boxes_of_photos_are_no_boxes_of_films(run_folder, write_coco, tmp_path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    words = ("people.name=boxes", f"people.file={write_coco([box_row(1, 1, 5)])}")
    with pytest.raises(InputError, match="there are only films: take a detector"):
        run(run_folder, tmp_path / "clip.mp4", tmp_path / "out", *words)


def test_sentences_about_photos_name_the_setting_of_the_command(write_coco) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "gone.jpg"}]
    path = write_coco([], images=images)
    with pytest.raises(InputError, match=r"nowhere: no such folder of photos: .*\(images=\.\.\.\)"):
        find_work([str(path)], images="nowhere")
    _, absent = find_work([str(path)]).photos
    with pytest.raises(InputError, match=r"gone\.jpg: the photo is absent: put it there, or correct images "):
        absent.read()
