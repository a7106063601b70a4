"""`semipose predict`: sources, files, going on after a kill, shares, and what is refused."""

import csv
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.configs.load import load
from semipose.predict import command, work
from semipose.predict.settings import PredictSettings
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat

ROOT = Path(__file__).resolve().parents[3]


def predict(run_folder: Path, sources: list[object], output: Path, *words: str) -> Path:
    """The command without its process; returns the output folder."""
    words = ("people.name=whole", *words) if not any(word.startswith("people") for word in words) else words
    cfg = load(PredictSettings, None, [f"output={output}", *words])
    command.predict_sources(str(run_folder), list(map(str, sources)), cfg, Console(quiet=True))
    return output


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the summary, which holds times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "summary.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def rows(folder: Path) -> dict:
    return json.loads((folder / "keypoints.json").read_bytes())


@pytest.fixture
def photos(write_photo, tmp_path) -> Path:
    """Five photos, two of them in a sub-folder."""
    for i, name in enumerate(["a.jpg", "b.png", "c.jpg", "more/a.jpg", "more/d.webp"]):
        write_photo(tmp_path / "photos" / name, 60 + i, 80, seed=i)
    return tmp_path / "photos"


def test_a_folder_becomes_files_that_others_read(run_folder, photos, tmp_path) -> None:
    output = predict(run_folder, [photos], tmp_path / "out")
    names = ["a.jpg", "b.png", "c.jpg", "more/a.jpg", "more/d.webp"]
    assert [image["file_name"] for image in rows(output)["images"]] == names
    coco = COCO(str(output / "keypoints.json"))
    assert len(coco.getAnnIds()) == 5
    read = CocoStyleFormat(annotations=output / "keypoints.json", images=photos).read()
    assert [person.file_name for person in read.persons if (person.keypoints[:, 2] > 0).any()]
    table = list(csv.DictReader(io.StringIO((output / "keypoints.csv").read_text())))
    points = [value for row in rows(output)["annotations"] for value in row["keypoints"]]
    xy = np.reshape(points, (-1, 3))[:, :2]
    assert [[float(row["x"]), float(row["y"])] for row in table] == xy.tolist()
    assert [row["file"] for row in table] == [name for name in names for _ in range(14)]
    for name in names:
        assert Image.open(output / "drawn" / f"{name}.jpg").format == "JPEG"
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["photos"], summary["people"], summary["bad"]) == (5, 5, 0)
    assert sorted(path.name for path in output.iterdir()) == [
        *("bad.json", "drawn", "keypoints.csv", "keypoints.json", "summary.json")
    ]


def test_every_kind_of_source_gives_the_same_people(run_folder, photos, tmp_path, monkeypatch) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for path in sorted(photos.rglob("*.*")):
            file.write(path, path.relative_to(photos).as_posix())
    listed = sorted(path for path in photos.rglob("*") if path.is_file())
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, listed)) + "\n\n"))
    images = [{"id": 50 + i, "file_name": str(p.relative_to(photos))} for i, p in enumerate(listed)]
    (tmp_path / "list.json").write_text(json.dumps({"images": images}))
    sources: dict[str, list[object]] = {
        "folder": [photos],
        "zip": [tmp_path / "photos.zip"],
        "address": [f"file://{photos}"],
        "glob": [photos / "**" / "*.*"],
        "one by one": listed,
        "stdin": ["-"],
        "coco": [tmp_path / "list.json"],
    }
    found = {
        name: rows(predict(run_folder, source, tmp_path / name, "draw=false", f"images={photos}"))
        for name, source in sources.items()
    }
    for name, each in found.items():
        assert [row["file_name"] for row in each["images"]] == [
            row["file_name"] for row in found["folder"]["images"]
        ], name
        for row, other in zip(each["annotations"], found["folder"]["annotations"], strict=True):
            assert row["keypoints"] == other["keypoints"], name
    assert [image["id"] for image in found["coco"]["images"]] == [50, 51, 52, 53, 54]


def test_several_sources_are_told_apart_by_name(run_folder, photos, tmp_path) -> None:
    output = predict(run_folder, [photos, photos / "more"], tmp_path / "out", "draw=false")
    names = [image["file_name"] for image in rows(output)["images"]]
    assert names[:2] == ["photos/a.jpg", "photos/b.png"]
    assert names[-2:] == ["more/a.jpg", "more/d.webp"]


def test_boxes_come_from_the_coco_file_or_from_results(run_folder, photos, tmp_path) -> None:
    images = [{"id": 3, "file_name": "a.jpg", "width": 60, "height": 80}, {"id": 4, "file_name": "b.png"}]
    people = [{"id": 1, "image_id": 3, "bbox": [5, 5, 31, 41], "category_id": 1}]
    people += [{"id": 2, "image_id": 3, "bbox": [1, 1, 50, 50], "category_id": 1, "iscrowd": 1}]
    (tmp_path / "my.json").write_text(json.dumps({"images": images, "annotations": people}))
    results = [{"file_name": "a.jpg", "bbox": [5, 5, 30, 40], "score": 0.5, "category_id": 1}]
    (tmp_path / "boxes.json").write_text(json.dumps(results))
    words = (f"images={photos}", "draw=false")
    one = predict(run_folder, [tmp_path / "my.json"], tmp_path / "1", "people.name=auto", *words)
    boxes = f"people.file={tmp_path / 'boxes.json'}"
    two = predict(run_folder, [photos], tmp_path / "2", "people.name=boxes", boxes, "draw=false")
    three = predict(
        run_folder,
        [photos],
        tmp_path / "3",
        "people.name=boxes",
        boxes.replace("boxes.", "my."),
        "draw=false",
    )
    (first,), (second,), (third,) = (rows(each)["annotations"] for each in (one, two, three))
    # As in training, the box of an annotation comes out one pixel smaller.
    assert first["bbox"] == second["bbox"] == third["bbox"] == [5, 5, 30, 40]
    assert first["keypoints"] == second["keypoints"] == third["keypoints"]
    assert second["score"] == pytest.approx(0.5 * first["score"], abs=1e-5)
    assert (first["image_id"], first["category_id"]) == (3, 7)


def test_files_that_are_no_photos_are_named_and_the_others_predicted(
    run_folder, write_photo, tmp_path
) -> None:
    folder = tmp_path / "photos"
    write_photo(folder / "grey.png", mode="L")
    write_photo(folder / "alpha.png", mode="RGBA")
    write_photo(folder / "palette.png", mode="P")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "deep.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html></html>")
    whole = write_photo(tmp_path / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (30_000, 3_000)).save(folder / "huge.png")
    Image.new("RGB", (30_000, 40)).save(folder / "long.png")
    (folder / "notes.txt").write_text("no photo")
    output = predict(run_folder, [folder], tmp_path / "out")
    good = {"alpha.png", "grey.png", "long.png", "palette.png"}
    assert {image["file_name"] for image in rows(output)["images"]} == good
    bad = {row["file"]: row["reason"] for row in json.loads((output / "bad.json").read_text())}
    assert set(bad) == {"deep.png", "empty.jpg", "page.jpg", "cut.jpg", "huge.png"}
    for name, why in {
        "deep.png": "more than 8 bits",
        "empty.jpg": "the file is empty",
        "page.jpg": "HTML",
        "cut.jpg": "damaged",
        "huge.png": "too large",
    }.items():
        assert why in bad[name]
        assert "corrupt_images" not in bad[name]
    assert json.loads((output / "summary.json").read_text())["passed_over"] == {".txt": 1}
    with pytest.raises(InputError, match=r"cut\.jpg: the image is damaged"):
        predict(run_folder, [folder], tmp_path / "strict", "bad=stop")


def test_if_nothing_can_be_read_the_command_fails(run_folder, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"nothing could be read; the first: .*the file is empty"):
        predict(run_folder, [tmp_path / "photos"], tmp_path / "out")


def test_a_name_that_leads_out_of_its_folder_is_refused(run_folder, photos, tmp_path) -> None:
    names = ["a.jpg", "../secret.jpg", "/etc/passwd.jpg"]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names, start=1)]
    (tmp_path / "secret.jpg").write_bytes((photos / "a.jpg").read_bytes())
    (tmp_path / "list.json").write_text(json.dumps({"images": images}))
    with pytest.raises(InputError, match="leads out of this location"):
        predict(run_folder, [tmp_path / "list.json"], tmp_path / "deep" / "out", f"images={photos}")


def test_a_zip_bomb_is_refused(run_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("semipose.sharding.annotations.photos.zipped.MOST_BYTES", 1_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", b"\0" * 3_000_000)
    with pytest.raises(InputError, match="larger than 256 MB"):
        predict(run_folder, [tmp_path / "bomb.zip"], tmp_path / "out")


def test_what_has_no_effect_is_said(run_folder, photos, tmp_path, capsys) -> None:
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 60, "height": 80},
        {"id": 2, "file_name": "c.jpg", "width": 62, "height": 80},
    ]
    boxes = [(1, [5, 5, 20, 30]), (1, [90, 5, 20, 30]), (2, [0, 0, 60, 50])]
    people = [
        {"id": number, "image_id": photo, "category_id": 7, "bbox": box}
        for number, (photo, box) in enumerate(boxes, start=1)
    ]
    category = {"id": 7, "name": "dancer"}
    file = {"images": images, "annotations": people, "categories": [category]}
    (tmp_path / "boxes.json").write_text(json.dumps(file))
    words = [f"output={tmp_path / 'out'}", f"images={photos}", "min_score=0.5", "track=oks"]
    cfg = load(PredictSettings, None, words)
    command.predict_sources(str(run_folder), [str(tmp_path / "boxes.json")], cfg, Console(soft_wrap=True))
    said = capsys.readouterr().out
    assert "note: min_score changes nothing" in said
    assert "note: track changes nothing" in said
    assert "boxes are empty or outside their photos: 1 of 3, the first in a.jpg" in said


def test_a_folder_that_holds_something_else_is_left_alone(run_folder, photos, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds something else \(thesis\.tex\)"):
        predict(run_folder, [photos], tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_other_settings_are_refused_in_a_folder_that_is_begun(run_folder, photos, tmp_path) -> None:
    output = predict(run_folder, [photos], tmp_path / "out", "draw=false")
    before = contents(output)
    with pytest.raises(InputError, match=r"min_peak was 0\.2 and is 0\.5"):
        predict(run_folder, [photos], output, "draw=false", "min_peak=0.5")
    (photos / "new.png").write_bytes((photos / "b.png").read_bytes())
    with pytest.raises(InputError, match=r"photos was 5 and is 6, sources changed\)"):
        predict(run_folder, [photos], output, "draw=false")
    assert contents(output) == before


def test_a_complete_folder_is_not_predicted_again(run_folder, photos, tmp_path, monkeypatch) -> None:
    output = predict(run_folder, [photos], tmp_path / "out", "draw=false")
    monkeypatch.setattr(work, "do_part", None)
    predict(run_folder, [photos], output, "draw=false")


def test_any_number_of_shares_gives_the_same_files(run_folder, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(work, "PHOTOS_IN_PART", 2)
    alone = predict(run_folder, [photos], tmp_path / "alone")
    for share in ("3/3", "1/3"):
        output = predict(run_folder, [photos], tmp_path / "shared", f"share={share}")
        assert not (output / "keypoints.json").exists()
    monkeypatch.setenv("RANK", "1")  # as accelerate launch says it
    monkeypatch.setenv("WORLD_SIZE", "3")
    predict(run_folder, [photos], output)
    assert contents(output) == contents(alone)


def test_parts_can_be_sent_to_other_processes(run_folder, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(work, "PHOTOS_IN_PART", 2)
    alone = predict(run_folder, [photos], tmp_path / "alone")

    def elsewhere(function, parts, **_):
        yield from (pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(part))) for part in parts)

    monkeypatch.setattr(command, "map_in_order", elsewhere)
    output = predict(run_folder, [photos], tmp_path / "sent", "workers=2")
    assert contents(output) == contents(alone)


@pytest.mark.slow
def test_two_worker_processes_give_the_same_files(run_folder, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(work, "PHOTOS_IN_PART", 2)
    alone = predict(run_folder, [photos], tmp_path / "alone")
    output = predict(run_folder, [photos], tmp_path / "workers", "workers=2")
    assert contents(output) == contents(alone)


KILLER = """
import os, sys, json
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.killing import run_and_die
from semipose.configs.load import load
from semipose.predict import command, video, work
from semipose.predict.settings import PredictSettings
work.PHOTOS_IN_PART = work.FRAMES_IN_SECTION = 2

run_folder, source, scratch, step = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])

class CountedWriter(video.FilmWriter):
    "PyAV's own work on files cannot be seen: a frame counts as one."
    def write(self, picture):
        sys.audit("os.mkdir", str(self.path))
        super().write(picture)

work.FilmWriter = CountedWriter

def contents(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "summary.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

def predict(folder, allowed=None):
    def run():
        sys.stderr = open(os.devnull, "w")
        words = [f"output={folder}", "people.name=whole", "track=oks", "smooth={}"]
        command.main([run_folder, source, *words])
    return run_and_die(run, allowed, within=folder)

cfg = load(PredictSettings, None, ["people.name=whole"])
predictor = work.load_predictor(run_folder, cfg)  # once, instead of in each child
work.load_predictor = command.load_predictor = lambda *_: predictor
assert predict(scratch / "whole") == 0
expected, kills, allowed = contents(scratch / "whole"), 0, 0
while True:
    folder = scratch / f"killed-{allowed}"
    code = predict(folder, allowed)
    if code == 0:
        break
    assert code == -9, code
    kills += 1
    assert predict(folder) == 0, allowed
    found = contents(folder)
    assert found == expected, (allowed, found.keys() ^ expected.keys())
    allowed += step
print(json.dumps({"kills": kills}))
"""


def test_a_command_that_is_stopped_in_the_middle_goes_on(run_folder, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(work, "PHOTOS_IN_PART", 2)
    alone = predict(run_folder, [photos], tmp_path / "alone")
    drawn, write_picture = [], work._write_picture

    def write_three(folder, people) -> None:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(people)
        write_picture(folder, people)

    monkeypatch.setattr(work, "_write_picture", write_three)
    with pytest.raises(KeyboardInterrupt):
        predict(run_folder, [photos], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / ".progress").glob("part-*")] == ["part-00000000.jsonl"]
    monkeypatch.setattr(work, "_write_picture", write_picture)
    assert contents(predict(run_folder, [photos], tmp_path / "out")) == contents(alone)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [("photos", 4), ("film", 3)])
def test_a_command_that_is_killed_anywhere_goes_on_to_the_same_files(
    kind: str, step: int, run_folder, request, tmp_path
) -> None:
    source = request.getfixturevalue(kind)
    if kind == "photos":
        (source / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    words = [sys.executable, "-W", "ignore", "-c", KILLER, run_folder, source, tmp_path, step]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] >= 10


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "give a model and what to predict"),
        (["RUN"], "give a model and what to predict"),
        (["nowhere", "PHOTOS"], "nowhere: "),
        (["RUN", "nowhere/*.jpg"], "there is no such photo, folder or film"),
        (["RUN", "PHOTOS", "batchsize=3"], "did you mean 'batch_size'"),
        (["RUN", "PHOTOS", "people.name=detektor"], "did you mean 'detector'"),
        (["RUN", "PHOTOS", "share=5/4"], "is not I/N"),
        (["RUN", "PHOTOS", "smooth={}"], "smooth needs track=oks"),
        (["RUN", "PHOTOS", "people.name=boxes", "people.file=none.json"], "none.json is not there"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_code_2(
    run_folder, photos, tmp_path, capsys, words, why, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"RUN": str(run_folder), "PHOTOS": str(photos)}
    with pytest.raises(SystemExit) as stop:
        command.main([named.get(word, word) for word in words])
    assert stop.value.code == 2
    assert why in capsys.readouterr().err


def test_help_prints_every_setting_with_its_meaning(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "MODEL SOURCE..." in text
    assert "min_peak" in text
