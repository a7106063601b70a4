"""The run's card: protocol, networks, and whose labels were used."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from semipose.pipelines.loader import ProcessInfo
from semipose.sharding.annotations.skeleton import COCO_17
from semipose.training.build import build_method, open_splits
from semipose.training.reporting.card import card, choice, describe, trained_parameters
from semipose.training.settings import RunSettings, load_run

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
MakeRun = Callable[..., RunSettings]


def card_of(cfg: RunSettings, folder: Path) -> dict:
    process = ProcessInfo(device=torch.device("cpu"))
    labelled, unlabelled, val = open_splits(cfg, folder)
    method = build_method(cfg, labelled.skeleton, process)
    return card(cfg, labelled, unlabelled, val, method, process)


def test_the_card_names_protocol_networks_and_labelled_people(
    tiny_run: MakeRun, drawn_shards: Path, tmp_path: Path
) -> None:
    written = card_of(tiny_run("everything", "protocol=tiny-10"), tmp_path / "index")
    rows = json.loads((drawn_shards / "train-coco" / "annotations.json").read_text())["annotations"]
    ids = "\n".join(str(row["id"]) for row in rows[:10])
    assert (written["protocol"], written["networks"], written["ensembles"]) == ("tiny-10", 1, {})
    assert written["labelled"]["people"] == 10
    assert written["labelled"]["ids_sha256"] == hashlib.sha256(ids.encode()).hexdigest()
    assert json.loads(json.dumps(written)) == written


def test_the_card_says_how_people_are_scored_and_how_the_rate_falls(
    tiny_run: MakeRun, tmp_path: Path
) -> None:
    words = (
        "evaluation={flip_test: true}",
        "heatmap.decode=dark",
        "optim={lr: 2e-3, schedule: {name: cosine}}",
    )
    written = card_of(tiny_run("supervised", *words), tmp_path / "index")
    scoring = {name: written["scoring"][name] for name in ("boxes", "flip_test", "decode", "metric")}
    assert scoring == {"boxes": "annotated", "flip_test": True, "decode": "dark", "metric": "AP"}
    assert written["learning_rate"] == "0.002, half a cosine to 0"
    assert "scored in annotated boxes with the flip test; " in describe(written)


def test_two_networks_and_their_ensemble_are_named(tiny_run: MakeRun, tmp_path: Path) -> None:
    written = card_of(tiny_run("supervised", "method={name: dual}"), tmp_path / "index")
    assert written["networks"] == 2
    (members,) = written["ensembles"].values()
    assert len(members) == 2


@pytest.mark.parametrize(
    ("method", "networks", "heads"),
    [
        ("{name: single, teacher: {name: ema}}", 1, 0),  # the average is not trained
        ("{name: dual}", 2, 0),
        ("{name: triple}", 3, 0),
        ("{name: double_match}", 1, 16 * 16 + 16),  # the projection of the features
    ],
)
def test_all_trained_parameters_are_counted(
    tiny_run: MakeRun, tmp_path: Path, method: str, networks: int, heads: int
) -> None:
    written = card_of(tiny_run("supervised", f"method={method}"), tmp_path / "index")
    assert written["trained_parameters"] == networks * written["parameters"] + heads


@pytest.mark.parametrize(
    ("recipe", "count"),
    [("adaptive_mixup", 15_376_721), ("double_match", 15_639_377), ("dual_cutout", 30_753_442)],
)
def test_figure_6_has_these_parameters(recipe: str, count: int) -> None:
    """Networks of docs/methods.md 8 with COCO's 17 keypoints; DoubleMatch adds 512 x 512 + 512."""
    cfg = load_run([CONFIGS / "protocols" / "coco-1k.yaml", CONFIGS / "methods" / f"{recipe}.yaml"])
    method = build_method(cfg, COCO_17, ProcessInfo(device=torch.device("cpu")), fresh=False)
    assert trained_parameters(method) == count


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "the first 10 people of"),
        (["data.subset_seed=3"], "a random draw (seed 3) of 10 people of"),
        (["data.labelled=all"], "all people of"),
    ],
)
def test_the_card_says_how_the_labelled_people_were_chosen(
    tiny_run: MakeRun, overrides: list[str], words: str
) -> None:
    assert choice(tiny_run("supervised", *overrides)).startswith(words)


def test_the_card_has_the_published_scores_of_the_recipe_under_its_protocol(
    tiny_run: MakeRun, tmp_path: Path
) -> None:
    words = ["protocol=coco-1k", "published={coco-1k: AP 31.5, coco-5k: AP 46.4}"]
    written = card_of(tiny_run("supervised", *words), tmp_path / "index")
    assert written["published"] == "AP 31.5"
    assert describe(written).endswith("; published: AP 31.5")
    other = card_of(tiny_run("supervised", "protocol=own", words[1]), tmp_path / "other")
    assert other["published"] is None
    assert "published" not in describe(other)


def test_the_line_at_the_start_of_a_run(tiny_run: MakeRun, tmp_path: Path) -> None:
    written = card_of(tiny_run("supervised", "protocol=tiny-10"), tmp_path / "index")
    short = written["labelled"]["ids_sha256"][:12]
    line = describe(written)
    assert line.startswith("protocol tiny-10: the first 10 people of ")
    assert f"; 10 (ids {short}) labelled; none unlabelled; 12 (ids " in line
    assert "scored in annotated boxes with no flip test; 1 network; 6 steps; " in line
    assert line.endswith("; learning rate 0.001, times 0.1 at 0.667 and 0.833 of the schedule")
    everything = describe(card_of(tiny_run("everything"), tmp_path / "other"))
    assert "protocol own" in everything
    assert "; 24 (ids " in everything
