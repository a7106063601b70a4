"""A first recipe: it loads, trains, gives a reason for every value and promises only what was measured."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from semipose.configs.load import load
from semipose.sharding.annotations.boxes import WholePhotoBoxes
from semipose.sharding.annotations.detector import DetectorBoxes
from semipose.sharding.build import BuildSettings, build
from semipose.training.first_recipe.__main__ import main
from semipose.training.first_recipe.plan import ALL_LABELS, MEASURED, FirstRecipeSettings, Plan, make_plan
from semipose.training.run import run
from semipose.training.settings import load_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mine(drawn_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `my.json` and `photos` of drawn people, in which the command is run."""
    shutil.copy(drawn_shards / "train-coco" / "annotations.json", tmp_path / "my.json")
    (tmp_path / "photos").symlink_to(drawn_shards / "train-coco" / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_run_starts_from_the_recipe_as_it_is(mine: Path, fresh_accelerate) -> None:
    main(["my.json", "photos", "val_share=0.4"])
    for side in ("train", "val"):
        words = [f"split.take={side}", f"output=my/shards/{side}", "workers=1"]
        build(load(BuildSettings, "my/shards.yaml", words), console=Console(quiet=True))
    words = ["net.pretrained=false", "steps=2", "labelled_batch=2", "unlabelled_batch=2", "loader.threads=1"]
    words += ["net.backbone={name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}"]
    words += ["evaluate_every=2"]
    cfg = load_run([Path("my/mine.yaml")], words)
    job = run(cfg, resume=False)
    assert job.step == 2
    plan = make_plan(Path("my.json"), Path("photos"), FirstRecipeSettings(val_share=0.4))
    assert (job.card["labelled"]["people"], job.card["val"]["people"]) == (plan.train, plan.val)
    assert (mine / "my/runs/semi-supervised/report.html").is_file()


def test_the_printed_supervised_command_loads(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["my.json", "photos"])
    (command,) = [line for line in capsys.readouterr().out.splitlines() if "supervised}" in line]
    words = re.findall(r'"[^"]+"|\S+', command.partition("#")[0])
    assert words[:3] == ["semipose", "train", "my/mine.yaml"]
    cfg = load_run([Path(words[2])], [word.strip('"') for word in words[3:]])
    assert (cfg.method.name, cfg.output) == ("supervised", "my/runs/supervised")


def test_commands_can_be_pasted_if_names_have_spaces(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "my.json").rename(mine / "my data (2).json")
    unlabel(mine / "my data (2).json", 3)
    main(["my data (2).json", "photos"])
    printed = capsys.readouterr().out
    headers = "".join(path.read_text() for path in (mine / "my data (2)").glob("*.yaml"))
    for text, count in ((printed, 6), (headers, 10)):
        lines = re.findall(r"^ *#? *(semipose (?:shards|train) .*)", text, re.MULTILINE)
        assert len(lines) == count
        for line in lines:
            _, verb, recipe, *words = shlex.split(line, comments=True)
            changes = [word for word in words if word != "check=only"]
            cfg = load_run([Path(recipe)], changes) if verb == "train" else load(BuildSettings, recipe, words)
            assert Path(cfg.output).parts[0] == "my data (2)"


def unlabel(path: Path, count: int) -> list[str]:
    """Take the people of the first photos out of the annotations; returns the names of these photos."""
    content = json.loads(path.read_text())
    first = {image["id"]: image["file_name"] for image in content["images"][:count]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in first]
    path.write_text(json.dumps(content))
    return list(first.values())


@pytest.mark.parametrize("words", [[], ["unlabelled=photos"]])
def test_photos_in_which_nobody_is_labelled_are_the_unlabelled_ones(
    words: list[str], mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of labelled people must not be among them, whether they are trained on or scored."""
    names = unlabel(mine / "my.json", 3)
    main(["my.json", "photos", *words])
    said = capsys.readouterr().out
    assert (
        "The unlabelled photos are those in photos in which nobody is labelled. 3 unlabelled photos" in said
    )
    assert "semipose shards my/unlabelled.yaml" in said
    settings = load(BuildSettings, "my/unlabelled.yaml", ["source.boxes.name=whole"])
    assert settings.output == Path("my/shards/unlabelled")
    assert load_run([Path("my/mine.yaml")]).data.unlabelled == "my/shards/unlabelled"
    assert [person.file_name for person in settings.source.read().persons] == names


def name_categories(path: Path, *names: str) -> None:
    """Call the category so, or share its people among several of these names."""
    content = json.loads(path.read_text())
    (category,) = content["categories"]
    content["categories"] = [category | {"id": i, "name": name} for i, name in enumerate(names, start=1)]
    for i, row in enumerate(content["annotations"]):
        row["category_id"] = 1 + i % len(names)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("names", "boxes"),
    [
        (["person"], DetectorBoxes(cache=Path("my/unlabelled-boxes.json"))),
        (["dog"], DetectorBoxes(cache=Path("my/unlabelled-boxes.json"), category=18)),
        (["dancer"], DetectorBoxes(cache=Path("my/unlabelled-boxes.json"))),
        (["beetle"], WholePhotoBoxes()),
        (["dog", "horse"], WholePhotoBoxes()),
    ],
)
def test_the_detector_searches_for_the_category_of_the_annotations_if_it_knows_it(
    names: list[str], boxes: object, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """18 is COCO's number of dogs. Dancers are people, by their keypoints."""
    unlabel(mine / "my.json", 3)
    if names == ["beetle"]:
        (mine / "my.json").write_text((mine / "my.json").read_text().replace("wrist", "claw"))
    name_categories(mine / "my.json", *names)
    main(["my.json", "photos"])
    said = f"torchvision's detector has no class for {' and '.join(names)}, so my/unlabelled.yaml takes each"
    is_whole = isinstance(boxes, WholePhotoBoxes)
    assert (said in capsys.readouterr().out) == is_whole
    assert load(BuildSettings, "my/unlabelled.yaml").source.boxes == boxes
    assert ("# each photo shows one" in (mine / "my/unlabelled.yaml").read_text()) == is_whole
    words = ["source.boxes.name=detector", "source.boxes.cache=FILE"]  # as the sentence advises
    assert load(BuildSettings, "my/unlabelled.yaml", words).source.boxes.cache == Path("FILE")


def test_photos_of_another_folder_are_counted(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = sorted((mine / "photos").iterdir())
    (mine / "more").mkdir()
    shutil.copy(photos[0], mine / "more" / photos[0].name)
    shutil.copy(photos[0], mine / "more" / photos[1].name)
    shutil.copy(photos[0], mine / "more" / "new.png")
    main(["my.json", "photos", "unlabelled=more"])
    assert "2 unlabelled photos" in capsys.readouterr().out


def test_every_value_has_its_reason(mine: Path) -> None:
    unlabel(mine / "my.json", 1)
    main(["my.json", "photos"])
    lines = (mine / "my" / "mine.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"\s*[\w]+: \S", line)]
    assert len(values) > 20
    assert [line for line in values if " # " not in line] == []


def test_what_is_promised_was_measured() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    rows = " ".join(results.split())
    for row in MEASURED:
        assert f"{row.supervised}" in rows
        assert f"{row.semi_supervised}" in rows
    assert f"with {ALL_LABELS[0]} labels".replace("4000", "all 4,000") in rows
    assert f"{ALL_LABELS[1]}" in rows


def make_plan_of(keypoints: int, train: int = 100) -> Plan:
    return Plan("my.json", "photos", None, "my", 120, 100, train, 20, keypoints, None, 200, (192, 144), 0.2)


@pytest.mark.parametrize(
    ("train", "steps"), [(5, 3000), (100, 3000), (500, 3900), (2000, 15_600), (10**6, 30_000)]
)
def test_labelled_people_are_seen_250_times_unless_the_run_would_be_too_short_or_too_long(
    train: int, steps: int
) -> None:
    assert make_plan_of(17, train).steps == steps


@pytest.mark.parametrize(
    ("keypoints", "said"),
    [
        (
            lambda row: row.pop("keypoints"),
            "none of its 24 people has a labelled keypoint: write the `keypoints`",
        ),
        (lambda row: row.update(keypoints=[5, 5, 0] * 14), "none of its 24 people has a labelled keypoint"),
        (
            lambda row: row.update(category_id=7),
            "there is no person with labelled keypoints: 24 category_id 7",
        ),
    ],
)
def test_people_without_labelled_keypoints_are_one_sentence(
    keypoints: Callable[[dict], object], said: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((mine / "my.json").read_text())
    for row in content["annotations"]:
        keypoints(row)
    (mine / "my.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        main(["my.json", "photos"])
    assert f"my.json: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda content: content["images"][0].update(file_name="gone.png"),
            ["ERROR", "photo absent", "gone.png"],
        ),
        (
            lambda content: [row.update(file_name=f"photos/{row['file_name']}") for row in content["images"]],
            ["ERROR", "photo absent", "photos/000001.jpg (000001.jpg is there)"],
        ),
        (
            lambda content: content["annotations"][0].update(bbox=[900, 900, 50, 50]),
            ["23 people", "dropped", "box empty or outside the photo"],
        ),
        (
            lambda content: [
                row.update(bbox=[x, y, x + w, y + h])
                for row in content["annotations"]
                for x, y, w, h in [row["bbox"]]
            ],
            ["WARNING", "x1, y1, x2, y2"],
        ),
    ],
)
def test_what_is_wrong_is_said(
    spoil: Callable[[dict], object],
    said: list[str],
    mine: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    content = json.loads((mine / "my.json").read_text())
    spoil(content)
    (mine / "my.json").write_text(json.dumps(content))
    main(["my.json", "photos"])
    printed = capsys.readouterr().out
    assert [words for words in said if words not in printed] == []
    assert ("Correct what is an ERROR" in printed) == ("ERROR" in said)


def drop_boxes(row: dict) -> None:
    del row["bbox"]


def drop_v(row: dict) -> None:
    row["keypoints"] = [number for index, number in enumerate(row["keypoints"]) if index % 3 < 2]


@pytest.mark.parametrize("spoil", [drop_boxes, drop_v])
def test_what_a_fault_advises_can_be_given_and_is_written(
    spoil: Callable[[dict], None], mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((mine / "my.json").read_text())
    for row in content["annotations"]:
        spoil(row)
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] > 3]
    (mine / "my.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        main(["my.json", "photos"])
    (words,) = re.findall(r"\((source\.name=coco-style [^)]*)\)", capsys.readouterr().err)
    main(["my.json", "photos", *words.split()])
    shards = load(BuildSettings, "my/shards.yaml")
    assert len(shards.source.read().persons) == len(content["annotations"])
    unlabelled = load(BuildSettings, "my/unlabelled.yaml", ["source.skeleton=lsp", "source.boxes.name=whole"])
    assert len(unlabelled.source.read().persons) == 3


def test_sound_annotations_are_without_fault(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["my.json", "photos"])
    assert "14 keypoints: no fault found" in capsys.readouterr().out


def test_what_cannot_be_used_is_one_sentence(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = json.loads((mine / "my.json").read_text())
    one["images"] = one["images"][:1]
    one["annotations"] = [row for row in one["annotations"] if row["image_id"] == one["images"][0]["id"]]
    (mine / "one.json").write_text(json.dumps(one))
    (mine / "empty").mkdir()
    main(["my.json", "photos"])
    for words, said in (
        (["my.json"], "give two things"),
        (["my.json", "photos"], "my/mine.yaml exists"),
        (["one.json", "photos"], "too few photos to divide"),
        (["gone.json", "photos"], "gone.json"),
        (["my.json", "gone"], "gone is neither a folder nor a zip file of photos: correct the path"),
        (["my.json", "photos", "output=b", "unlabelled=empty"], "holds no photo"),
        (["my.json", "photos", "output=b", "unlabelled=photos"], "all photos in photos have labelled people"),
        (["my.json", "photos", "output=b", "unlabelled=nowhere"], "neither a folder nor a zip file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert not (mine / "b").exists()
