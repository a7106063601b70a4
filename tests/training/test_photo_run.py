"""The commands of a run on whole photos: train, score, draw; and what does not fit is one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError
from semipose.pipelines.photo_loader import labelled_photo_loader
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import open_split
from semipose.sharding.annotations.boxes import NoBoxes
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.crop import WholePhoto
from semipose.training import checkpoint, evaluate, loop
from semipose.training import run as run_module
from semipose.training.reporting.card import describe
from semipose.training.reporting.people import read_people
from semipose.training.run_files import read_metrics, read_scores
from semipose.training.settings import load_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = (CONFIGS / "protocols" / "coco-photos.yaml", CONFIGS / "methods" / "detector_free.yaml")
TINY = (
    "net.backbone={name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}",
    *("net.pretrained=false", "precision=no", "photo_views.size=64", "method.burn_in=0.0"),
    *("data.labelled_share=0.5", "labelled_batch=2", "unlabelled_batch=2", "loader.threads=1"),
    *("steps=2", "report_every=1", "checkpoint_every=1", "evaluate_every=2"),
)

FAMILIES = pytest.mark.parametrize(
    "family", ["dekr", *(pytest.param(f, marks=pytest.mark.slow) for f in ("ae", "cid"))]
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of kind image: drawn scenes."""
    folder = tmp_path_factory.mktemp("photos")
    source = DrawnFormat(folder=folder / "coco", people=16, seed=1)
    settings = BuildSettings(source=source, output=folder / "shards", kind="image", crop=WholePhoto())
    build(settings, console=Console(quiet=True))
    return folder / "shards"


def words(photos: Path, output: Path, *more: str) -> list[str]:
    places = (f"data.train={photos}", f"data.val={photos}", f"output={output}")
    return [*map(str, RECIPES), *places, *TINY, *more]


@FAMILIES
def test_every_family_is_trained_scored_and_drawn(family: str, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_module.main(words(photos, folder, f"net.head.name={family}"))
    scores = read_scores(folder)["last"]
    assert scores["step"] == 2
    assert set(scores["scores"]) == {"network", "average"}
    assert "AP" in scores["scores"]["network"]
    assert list((folder / "pictures").glob("predictions-*.png"))
    assert [path.name for path in sorted((folder / "pictures").glob("views-*.png"))] == [
        "views-00000000.png",
        "views-00000002.png",
    ]
    card = json.loads((folder / "card.json").read_text())
    assert card["labelled"]["choice"] == f"0.5 of the annotated photos of {photos} (fold 0)"
    assert (card["scoring"]["decode"], card["heatmap_hw"]) == (family, [16, 16])
    assert " scored as whole photos with no flip test" in describe(card)
    evaluate.main([str(folder)])
    again = json.loads((folder / "evaluation" / "scores.json").read_text())
    assert again["scores"]["network"]["AP"] == pytest.approx(scores["scores"]["network"]["AP"])


def test_shards_of_people_are_refused_for_whole_photos(drawn_shards: Path, tmp_path: Path) -> None:
    cfg = load_run(RECIPES, words(drawn_shards / "train", tmp_path / "run")[2:])
    with pytest.raises(InputError, match="the samples are single people, and this needs whole photos"):
        run_module.run(cfg, resume=False)


def test_shards_of_whole_photos_are_refused_for_people(photos: Path, tmp_path: Path) -> None:
    recipes = (CONFIGS / "protocols" / "demo.yaml", CONFIGS / "methods" / "supervised.yaml")
    cfg = load_run(recipes, [f"data.train={photos}", f"data.val={photos}", f"output={tmp_path / 'run'}"])
    with pytest.raises(InputError, match="are whole photos, and this needs single people"):
        run_module.run(cfg, resume=False)


@pytest.fixture(scope="module")
def unmarked_people(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes: of every third photo nobody has keypoints, of every third one somebody has none."""
    folder = photos.parent / "coco"
    rows = json.loads((folder / "annotations.json").read_text())
    images = [image["id"] for image in rows["images"]]
    for index, image_id in enumerate(images):
        people = [row for row in rows["annotations"] if row["image_id"] == image_id]
        for person in people[: (len(people), 1, 0)[index % 3]]:
            person.update(keypoints=[0] * len(person["keypoints"]), num_keypoints=0)
    made = tmp_path_factory.mktemp("unmarked")
    (made / "annotations.json").write_text(json.dumps(rows))
    source = CocoFormat(annotations=made / "annotations.json", images=folder / "images")
    output = made / "shards"
    settings = BuildSettings(
        source=source, output=output, kind="image", crop=WholePhoto(), empty_photos="keep"
    )
    build(settings, console=Console(quiet=True))
    return output


@pytest.mark.slow
@FAMILIES
def test_people_without_keypoints_go_through_a_whole_run(
    family: str, unmarked_people: Path, tmp_path: Path
) -> None:
    """They teach nobody, nor that nobody is there; nobody asks for them; and their photos are drawn too."""
    split = open_split(unmarked_people, "image")
    rows = json.loads((unmarked_people / "ground_truth.json").read_text())["annotations"]
    marked = [row for row in rows if row["num_keypoints"]]
    assert 0 < len(marked) < len(rows)
    photos = {row["image_id"] for row in marked}
    assert len(photos) < split.num_samples
    batch = next(labelled_photo_loader(split, PhotoViewSettings(size=64), batch_size=16, seed=0))
    assert batch.people.marked.any(-1).sum() == batch.people.is_person.sum() > 0
    assert batch.ignored.grid.flatten(1).any(1).sum() >= split.num_samples // 3

    folder, schedule = tmp_path / "run", ("data.labelled_share=1.0", "steps=4", "method.burn_in=0.5")
    run_module.main(words(unmarked_people, folder, f"net.head.name={family}", *schedule))
    card = json.loads((folder / "card.json").read_text())
    assert card["labelled"]["people"] == len(photos)
    assert card["val"]["people"] == split.num_samples
    assert card["unlabelled"]["people"] == split.num_samples - len(photos)
    scores = read_scores(folder)["last"]["scores"]
    assert all(0 <= scores[network]["AP"] <= 1 for network in ("network", "average"))
    assert sorted(read_people(folder).ids) == sorted(row["id"] for row in marked)
    names = [path.name for path in sorted((folder / "pictures").iterdir())]
    assert names == [f"{kind}-{step:08d}.png" for kind in ("predictions", "views") for step in (0, 2, 4)]


@pytest.mark.slow
@FAMILIES
def test_a_run_that_is_looked_at_ends_as_one_that_is_not(
    family: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports at every step; at every tenth pictures, scores and a probe of the teacher's people: 20 steps,
    to the bit, with the state of the optimiser, of the random numbers and of both streams."""
    schedule = ("steps=20", "method.burn_in=0.2", "method.ramp_up=0.4", "checkpoint_every=20", "report=false")
    run = (f"net.head.name={family}", *schedule)
    run_module.main(words(photos, tmp_path / "seen", *run, "report_every=1", "evaluate_every=10"))
    assert len(list((tmp_path / "seen" / "pictures").glob("views-*.png"))) == 3
    assert any("probe/kept_recall" in row for row in read_metrics(tmp_path / "seen"))
    for name in ("draw_pictures", "probe_teacher", "score_networks"):
        monkeypatch.setattr(loop, name, lambda job: None)
    run_module.main(words(photos, tmp_path / "unseen", *run, "report_every=20", "evaluate_every=20"))
    assert not (tmp_path / "unseen" / "pictures").exists()
    seen, unseen = (
        checkpoint.load(checkpoint.step_folder(tmp_path / name, 20)) for name in ("seen", "unseen")
    )
    for part in ("method", "optimizer"):
        assert_equal(seen.shared[part], unseen.shared[part])
    assert_equal(seen.rank_state, unseen.rank_state)


@pytest.mark.slow
def test_a_run_that_is_probed_reports_it_and_otherwise_the_same(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the half of the photos whose labels training never reads."""
    schedule = ("steps=4", "method.burn_in=0.5", "evaluate_every=2", "report=false", "checkpoint_every=4")
    for name, count in (("probed", 64), ("plain", 0)):
        run_module.main(words(photos, tmp_path / name, *schedule, f"probe_photos={count}"))
    assert capsys.readouterr().out.count("the teacher in hidden annotations: kept_") == 2
    probed, plain = (read_metrics(tmp_path / name) for name in ("probed", "plain"))
    probes = [row for row in probed if any(key.startswith("probe/") for key in row)]
    assert [row["step"] for row in probes] == [2, 4]
    for row in probes:
        assert {"probe/kept_recall", "probe/decoded_recall"} <= set(row)
        assert all(0 <= value <= 1 for key, value in row.items() if key.startswith("probe/"))
    others = [without_speed(row) for row in probed if row not in probes]
    assert others == [without_speed(row) for row in plain]
    cards = [json.loads((tmp_path / name / "card.json").read_text()) for name in ("probed", "plain")]
    assert cards[0]["probe"]["people"] == 5
    assert cards[1]["probe"] is None


@pytest.mark.slow
def test_photos_without_annotations_have_no_probe(photos: Path, tmp_path: Path) -> None:
    """A folder of photos is unlabelled without a word of it."""
    source = FolderFormat(
        images=photos.parent / "coco" / "images",
        skeleton=str(photos / "ground_truth.json"),
        boxes=NoBoxes(),
    )
    settings = BuildSettings(
        source=source,
        output=tmp_path / "shards",
        kind="image",
        crop=WholePhoto(),
        empty_photos="keep",
    )
    build(settings, console=Console(quiet=True))
    run_module.main(words(photos, tmp_path / "run", f"data.unlabelled={tmp_path / 'shards'}"))
    assert read_scores(tmp_path / "run")["last"]["step"] == 2
    assert json.loads((tmp_path / "run" / "card.json").read_text())["probe"] is None
    assert not any(key.startswith("probe/") for row in read_metrics(tmp_path / "run") for key in row)


SPEED = {"data_wait_share", "samples_per_s", "seconds_per_step", "peak_memory_gib"}


def without_speed(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in SPEED}


@pytest.mark.slow
@FAMILIES
def test_a_run_that_lost_its_end_repeats_it_to_the_bit(family: str, photos: Path, tmp_path: Path) -> None:
    """In the middle of the ramp: student, average, ring, mixture, optimiser, draws and both streams."""
    folder = tmp_path / "run"
    schedule = (
        "steps=6",
        "method.burn_in=0.3",
        "method.ramp_up=0.6",
        "checkpoint_every=3",
        "evaluate_every=6",
    )
    run = words(photos, folder, f"net.head.name={family}", *schedule)
    run_module.main(run)
    last = checkpoint.latest(folder)
    assert checkpoint.step_of(last) == 6
    expected = checkpoint.load_shared(last)
    shutil.rmtree(last)
    (folder / "scores.json").unlink()
    run_module.main(run)
    again = checkpoint.load_shared(checkpoint.latest(folder))
    for part in ("method", "optimizer"):
        assert_equal(expected[part], again[part])


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for values in zip(one, other, strict=True):
            assert_equal(*values)
    else:
        assert one == other
