"""Tables of finished runs: who shares a table and a row, means, paired differences, what is left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from semipose.configs.load import InputError, dump, load
from semipose.training.compare import main
from semipose.training.experiments.runs import Replicate, find_runs, group_runs, read_run
from semipose.training.experiments.tables import (
    CompareSettings,
    make_curves,
    make_points,
    read_all,
    report,
)
from semipose.training.run_files import binned, read_losses
from semipose.training.settings import RunSettings

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("adaptive-seed0", "seed=0", PCK=0.5)`: a run folder as a finished run leaves it."""

    def make(name: str, *overrides: str, **changes: Any) -> Path:
        folder = tmp_path / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        words = ["data={train: a, val: b, labelled: 100}", "steps=10", "metric=PCK", f"output={folder}"]
        cfg = load(RunSettings, None, [*words, *overrides])
        (folder / "recipe.yaml").write_text(dump(cfg))
        labelled = 1000 if cfg.data.labelled == "all" else cfg.data.labelled
        card = {
            "protocol": cfg.protocol,
            "networks": changes.get("networks", 1),
            "ensembles": changes.get("ensembles", {}),
            "labelled": {"people": labelled, "ids_sha256": changes.get("ids") or f"{labelled:064d}"},
            "val": {"people": 1000, "ids_sha256": changes.get("val_ids", "v" * 64)},
            "processes": 1,
            "trained_parameters": changes.get("trained_parameters", 1000),
        }
        (folder / "card.json").write_text(json.dumps(card))
        nets = changes.get("scores") or {"network": {"PCK": changes["PCK"], "AP": 0.25, "AR": -1.0}}
        last = {"step": changes.get("step", cfg.steps), "scores": nets}
        better = {name: {**scores, "PCK": scores["PCK"] + 0.01} for name, scores in nets.items()}
        scores = {"metric": cfg.metric, "last": last, "best": {"step": 5, "scores": better}}
        scores["history"] = changes.get("history", [last])
        (folder / "scores.json").write_text(json.dumps(scores))
        losses = changes.get("losses", {})
        lines = [json.dumps({"step": step, "loss": loss, "lr": 0.1}) for step, loss in losses.items()]
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 1, "AP": 0.5}']) + "\n")
        return folder

    return make


def table(tmp_path: Path, **settings: Any) -> tuple[str, dict[str, list[str]]]:
    """compare.md of everything, and its rows by name, without their name."""
    runs = tmp_path / "runs"
    report(read_all([runs]), CompareSettings(**settings), runs, Console(quiet=True))
    text = (tmp_path / "runs" / "compare.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return text, {row[0]: row[1:] for row in cells if len(row) > 1}


def test_a_row_is_mean_and_deviation_over_seeds_of_the_last_step(write, tmp_path):
    for seed, score in ((0, 0.40), (1, 0.44), (2, 0.45)):
        write(f"adaptive-seed{seed}", f"seed={seed}", PCK=score)
    text, rows = table(tmp_path)
    assert rows["recipe"] == ["networks", "seeds", "PCK", "PCK, best step", "AP", "AR"]
    # mean 43, sd sqrt((9 + 1 + 4) / 2) = 2.65; AR is -1 everywhere, which means nothing
    assert rows["adaptive"] == ["1", "0, 1, 2", "43.0 ± 2.6", "44.0 ± 2.6", "25.0 ± 0.0", ""]
    assert "own: 100 labelled (ids 000000000000), 1,000 scored (ids vvvvvvvvvvvv), 10 steps of 32" in text


def test_published_scores_stand_beside_ours_in_the_protocol_that_they_are_of(write, tmp_path):
    words = ["protocol=coco-1k", "published={coco-1k: AP 42.9, coco-5k: AP 53.1}"]
    two = {"network": {"PCK": 0.4, "AP": 0.25}, "mean": {"PCK": 0.5, "AP": 0.25}}
    write("adaptive-seed0", *words, scores=two, ensembles={"mean": ["network", "average"]})
    write("mine-seed0", "protocol=coco-1k", "steps=10", "optim.lr=0.5", PCK=0.3)
    _, rows = table(tmp_path, baseline="mine")
    assert rows["recipe"][-2:] == ["published", "PCK - mine"]
    assert [rows[name][-2] for name in ("adaptive", "adaptive (ensemble: mean)", "mine")] == [
        "AP 42.9",
        "",
        "",
    ]


def test_a_run_whose_settings_changed_on_the_way_is_a_row_of_its_own_and_says_so(write, tmp_path):
    """The recipe is that of the other seed, which was so from the start. Threads change no score."""
    write("adaptive-seed0", "seed=0", "optim.lr=1e-5", PCK=0.40)
    folder = write("adaptive-seed1", "seed=1", "optim.lr=1e-5", PCK=0.60)
    card = json.loads((folder / "card.json").read_text())
    changes = [
        {"step": 4, "setting": "report_every", "was": 1, "now": 2},
        {"step": 4, "setting": "loader.threads", "was": 1, "now": 2},
    ]
    (folder / "card.json").write_text(json.dumps(card | {"changes": changes}))
    assert table(tmp_path)[1]["adaptive"][1] == "0, 1"
    changes.append({"step": 6, "setting": "optim.lr", "was": 0.001, "now": 1e-5})
    (folder / "card.json").write_text(json.dumps(card | {"changes": changes}))
    rows = table(tmp_path)[1]
    assert rows["adaptive"][1:3] == ["0", "40.0"]
    assert rows["adaptive (changed since step 6: optim.lr 0.001 to 0.00001)"][1:3] == ["1", "60.0"]


def test_differences_are_paired_over_the_seeds_that_both_have(write, tmp_path):
    for seed, score in ((0, 0.30), (1, 0.35)):
        write(f"supervised-seed{seed}", f"seed={seed}", "steps=10", PCK=score)
    for seed, score in ((0, 0.33), (1, 0.40), (2, 0.90)):
        write(f"single-seed{seed}", f"seed={seed}", "method={name: single}", PCK=score)
    _, rows = table(tmp_path, baseline="supervised")
    assert rows["recipe"][-1] == "PCK - supervised"
    assert rows["supervised"][-1] == ""
    assert rows["single"][-1] == "+4.0 ± 1.4 (2 of 3 seeds)"


ALL = "data.labelled=all"
OF_PHOTOS = ["net={backbone: {name: light}, head: {name: dekr}}", "codec={name: dekr}"]
DRAWS = {  # how the labelled people are drawn at random, by the number of the draw
    "people": lambda draw: [f"data.subset_seed={draw}"],
    "a share of photos": lambda draw: [*OF_PHOTOS, "data.labelled_share=0.1", f"data.fold={draw}", ALL],
}


@pytest.mark.parametrize("kind", DRAWS)
def test_runs_whose_labelled_people_are_drawn_anew_are_one_row_paired_by_draw(write, tmp_path, kind):
    """By hand: gains of 4 and 2 points, 3 ± 1.4; the third draw of `single` was made from other shards."""
    for draw, low, high in ((3, 0.30, 0.34), (4, 0.50, 0.52), (5, 0.10, 0.90)):
        of = {"ids": f"{draw:064d}"}
        write(f"supervised-{kind}-seed{draw}", *DRAWS[kind](draw), f"seed={draw}", PCK=low, **of)
        other = {"ids": "f" * 64} if draw == 5 else of
        words = [*DRAWS[kind](draw), f"seed={draw}", "method={name: single}"]
        if kind != "people":
            words[-1] = "method={name: detector_free}"
        write(f"semi-{kind}-seed{draw}", *words, PCK=high, **other)
    text, rows = table(tmp_path, baseline=f"supervised-{kind}")
    count = "100" if kind == "people" else "1,000"
    assert f"own: {count} labelled at random, 1,000 scored (ids vvvvvvvvvvvv)" in text
    assert "over seeds, each with its draw of labelled people." in text
    assert rows["recipe"][1:3] == ["seed/draw", "PCK"]
    assert rows[f"supervised-{kind}"][1:3] == ["3/3, 4/4, 5/5", "30.0 ± 20.0"]
    assert rows[f"semi-{kind}"][-1] == "+3.0 ± 1.4 (2 of 3 seeds)"


def test_draws_of_one_seed_are_told_apart_and_the_first_people_have_a_table_of_their_own(write, tmp_path):
    for draw in (0, 1):
        folder = f"a-subset_seed={draw}-seed7"
        write(folder, f"data.subset_seed={draw}", "seed=7", PCK=0.4, ids=f"{draw:064d}")
    write("b-seed7", "seed=7", PCK=0.5)
    write("all-seed7", "seed=7", "data.labelled=all", "data.subset_seed=1", PCK=0.5)
    text, rows = table(tmp_path)
    assert rows["a"][1] == "7/0, 7/1"
    assert [Replicate(7, 1).words, Replicate(7, None).words] == ["seed 7, draw 1", "seed 7"]
    assert text.count("labelled at random") == 1
    assert (rows["b"][1], rows["all"][1]) == ("7", "7")


def test_a_run_of_an_older_version_is_compared_by_the_settings_that_it_has(write, tmp_path):
    for name, data in (
        ("a", "base: gone.yaml\n"),
        ("b", "data: {subset_seed: 3}\n"),
        ("c", "data: {labelled_share: 0.1}\n"),
    ):
        folder = write(f"{name}-seed0", PCK=0.4)
        (folder / "recipe.yaml").write_text(f"seed: 0\nsteps: 10\nlabelled_batch: 32\ngone: 1\n{data}")
    assert [table(tmp_path)[1][name][1] for name in "abc"] == ["0", "0", "0/0"]
    (folder / "recipe.yaml").write_text("seed: 0\nsteps: 10\nlabelled_batch: 32\ndata: 5\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: .*it does not hold all settings of a run"):
        read_run(folder)


def test_runs_that_start_from_those_of_their_seeds_are_one_row(write, tmp_path):
    for seed in (1, 11):
        starts = [f"{{start_from: runs/{name}-seed{seed}, pretrained: false}}" for name in ("a", "b-seed=")]
        words = ["method={name: dual}", f"net={starts[0]}", f"method.second_net={starts[1]}"]
        write(f"dual-seed{seed}", f"seed={seed}", *words, PCK=0.4)
    write("dual-seed2", "seed=2", *words, PCK=0.4)
    _, rows = table(tmp_path)
    assert sorted(row[1] for name, row in rows.items() if name.startswith("dual")) == ["1, 11", "2"]


@pytest.mark.parametrize(
    "other",
    [
        {"overrides": ["protocol=lspet-100"]},
        {"overrides": ["steps=20"]},
        {"overrides": ["labelled_batch=16"]},
        {"overrides": [], "ids": "f" * 64},
        {"overrides": [], "val_ids": "f" * 64},
    ],
)
def test_runs_of_another_protocol_stand_in_another_table(write, tmp_path, other):
    write("a-seed0", PCK=0.4)
    overrides = other.pop("overrides")
    write("b-seed0", *overrides, PCK=0.5, **other)
    text, rows = table(tmp_path)
    assert text.count(" scored (ids ") == 2
    assert (rows["a"][2], rows["b"][2]) == ("40.0", "50.0")


def test_single_networks_and_several_stand_in_sections_of_their_own(write, tmp_path):
    write("single-seed0", "method={name: single}", PCK=0.5)
    scores = {"first": {"PCK": 0.51}, "second": {"PCK": 0.52}, "mean": {"PCK": 0.53}}
    ensembles = {"mean": ["first", "second"]}
    write("dual-seed0", "method={name: dual}", networks=2, ensembles=ensembles, scores=scores)
    text, rows = table(tmp_path)
    one, several = text.split("Several networks:")
    assert "single" in one
    assert "dual" not in one
    assert rows["dual"][:3] == ["2", "0", "51.0"]
    assert rows["dual (ensemble: mean)"][2] == "53.0"
    assert "second" not in several
    assert table(tmp_path, every_network=True)[1]["dual (second)"][2] == "52.0"


def test_unfinished_and_repeated_runs_are_named_and_left_out(write, tmp_path):
    write("a-seed0", PCK=0.4)
    write("b-seed0", "steps=20", PCK=0.4, step=19)
    bare = write("c-seed0", "seed=1", PCK=0.4)
    (bare / "scores.json").unlink()
    write("z-again", PCK=0.9)
    text, rows = table(tmp_path)
    assert f"Left out, as not finished: {tmp_path / 'runs' / 'b-seed0'}, {bare}." in text
    assert (
        f"repeating recipe, seed and labelled people of another run: {tmp_path / 'runs' / 'z-again'}." in text
    )
    assert rows["a"][2] == "40.0"
    assert {"b", "c", "z-again"}.isdisjoint(rows)


def test_what_changes_no_score_splits_no_row_and_other_settings_name_theirs(write, tmp_path):
    write("a/seed0", "report_every=7", "loader.threads=1", PCK=0.4)
    write("a/seed1", "seed=1", PCK=0.5)
    write("x/a-labelled=100-seed0", "optim.lr=2e-3", PCK=0.6)
    _, rows = table(tmp_path)
    assert rows["a optim.lr=0.001"][1] == "0, 1"
    assert rows["a optim.lr=0.002"][1] == "0"


def test_a_row_does_not_repeat_the_protocol_of_its_table(write, tmp_path):
    write("best-coco-1k-seed0", "protocol=coco-1k", PCK=0.4)
    write("best-coco-10k-seed0", "protocol=coco-1k", PCK=0.5, ids="other")
    _, rows = table(tmp_path)
    assert {"best", "best-coco-10k"} < set(rows)


def test_chosen_metrics_replace_the_usual(write, tmp_path):
    write("a-seed0", PCK=0.4)
    assert table(tmp_path, metrics=("AP",))[1]["recipe"][2:] == ["AP", "AP, best step"]


def test_the_plot_is_drawn_where_labels_vary(write, tmp_path):
    for labelled in (100, 500):
        for seed in (0, 1):
            for name, base in (("supervised", 0.1), ("single", 0.2)):
                words = [f"data.labelled={labelled}", f"seed={seed}", f"method={{name: {name}}}"]
                score = base + labelled / 2000 + seed / 100
                write(f"{name}-labelled={labelled}-seed{seed}", *words, PCK=score)
    table(tmp_path)
    picture = Image.open(tmp_path / "runs" / "compare.png")
    assert picture.width > 1000
    assert len(set(picture.convert("RGB").resize((200, 100)).tobytes())) > 20


def test_one_number_of_labels_needs_no_plot(write, tmp_path):
    write("a-seed0", PCK=0.4)
    table(tmp_path)
    assert not (tmp_path / "runs" / "compare.png").exists()


def training_of(scores: list[float], losses: dict[int, float]) -> dict[str, Any]:
    """What a run whose network was scored every fifth step leaves."""
    history = [{"step": 5 * i, "scores": {"network": {"PCK": pck}}} for i, pck in enumerate(scores, 1)]
    return {"history": history, "losses": losses, "PCK": scores[-1]}


def test_curves_are_the_mean_over_seeds_of_every_scoring_and_of_the_loss(write, tmp_path):
    """Figure 5 of Meng et al.: score and loss over training, a line for each way to mask."""
    write("random-seed0", **training_of([0.1, 0.3], {1: 5.0, 10: 3.0}))
    write("random-seed1", "seed=1", **training_of([0.2, 0.5], {1: 7.0, 10: 4.0}))
    write("adaptive-seed0", "method={name: single}", **training_of([0.4, 0.6], {10: 2.0}))
    tables = read_all([tmp_path / "runs"]).tables
    curves = {(curve.panel.split(",")[0], curve.method): curve for curve in make_curves(tables)}
    score, loss = curves["PCK in percent", "random"], curves["loss", "random"]
    assert score.steps == (5, 10)
    assert score.means == pytest.approx((15, 40))
    assert score.sds == pytest.approx((7.0711, 14.1421), abs=1e-3)
    assert (loss.steps, loss.means) == ((1, 10), (6.0, 3.5))
    assert curves["loss", "adaptive"].means == (2.0,)
    assert curves["PCK in percent", "adaptive"].sds == (0.0, 0.0)


def test_the_loss_of_a_long_run_is_averaged_over_hundredths_of_it():
    losses = {step: float(step) for step in range(1, 1001)}
    parts = binned(losses, 1000)
    assert list(parts) == list(range(10, 1001, 10))
    assert parts[10] == pytest.approx(5.5)
    assert parts[1000] == pytest.approx(995.5)
    assert binned({5: 1.0, 30: 3.0}, 30) == {5: 1.0, 30: 3.0}  # fewer steps than parts: as they are
    assert max(binned(dict.fromkeys(range(1, 151), 0.0), 150)) == 150
    assert max(binned(dict.fromkeys(range(1, 251), 0.0), 250)) == 250  # in parts of 3 steps


def test_a_curve_leaves_out_the_steps_whose_loss_was_not_finite(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": null}', '{"step": 2, "AP": 0.5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_losses(tmp_path) == {1: 2.0}


def test_parameters_are_those_that_are_trained_of_all_networks(write, tmp_path):
    """Figure 6 of Meng et al.; runs of unlike length stand in one picture."""
    write("adaptive-seed0", "protocol=coco-1k", PCK=0.4, trained_parameters=15_376_721)
    dual = {"networks": 2, "trained_parameters": 30_753_442}
    write("dual-seed0", "protocol=coco-1k", "method={name: dual}", "steps=20", PCK=0.5, **dual)
    points = list(make_points(read_all([tmp_path / "runs"]).tables, "parameters"))
    assert {(p.method, p.at, round(p.mean), p.has_several_networks) for p in points} == {
        ("adaptive", 15_376_721, 40, False),
        ("dual", 30_753_442, 50, True),
    }
    assert len({point.panel for point in points}) == 1


@pytest.mark.parametrize("kind", ["labels", "parameters"])
def test_the_picture_has_the_ensembles_of_the_table(write, tmp_path, kind):
    scores = {"first": {"PCK": 0.5}, "second": {"PCK": 0.51}, "mean": {"PCK": 0.53}}
    ensembles = {"mean": ["first", "second"]}
    write(
        "dual-seed0",
        "method={name: dual}",
        networks=2,
        trained_parameters=7,
        ensembles=ensembles,
        scores=scores,
    )
    points = make_points(read_all([tmp_path / "runs"]).tables, kind)
    assert [(p.method, p.at, round(p.mean), p.has_several_networks) for p in points] == [
        ("dual", 7 if kind == "parameters" else 100, 50, True),
        ("dual (ensemble: mean)", 7 if kind == "parameters" else 100, 53, True),
    ]


@pytest.mark.parametrize("kind", ["curves", "parameters"])
def test_a_picture_that_is_asked_for_is_drawn(write, tmp_path, kind, capsys):
    for seed in (0, 1):
        write(f"a-seed{seed}", f"seed={seed}", **training_of([0.1, 0.3], {1: 5.0, 10: 3.0}))
    main([str(tmp_path / "runs"), f"plot={kind}"])
    path = tmp_path / "runs" / f"compare-{kind}.png"
    assert str(path) in capsys.readouterr().out
    picture = Image.open(path)
    assert len(set(picture.convert("RGB").resize((200, 100)).tobytes())) > 20


def test_a_card_that_counts_no_trained_parameters_is_named(write, tmp_path):
    write("a-seed0", PCK=0.4, trained_parameters=None)
    with pytest.raises(InputError, match=r"a-seed0: its card does not say how many parameters are trained"):
        table(tmp_path, plot="parameters")


def test_files_among_the_folders_are_passed_over(write):
    run = write("a-seed0", PCK=0.4)
    (run.parent / "compare.md").write_text("| an earlier table |")
    assert find_runs(sorted(run.parent.iterdir())) == [run]
    with pytest.raises(InputError, match=r"compare\.md: no run folder among these"):
        find_runs([run.parent / "compare.md"])


def test_groups_keep_every_seed_and_recipe_apart(write):
    for seed in (0, 1):
        write(f"a-seed{seed}", f"seed={seed}", PCK=0.4)
        write(f"b-seed{seed}", f"seed={seed}", "method={name: single}", PCK=0.4)
    folders = find_runs([write("c-seed0", "steps=11", PCK=0.4).parent])
    tables, repeated = group_runs(run for run in map(read_run, folders) if run)
    assert [[(g.name, list(map(str, g.runs))) for g in groups] for groups in tables.values()] == [
        [("a", ["0", "1"]), ("b", ["0", "1"])],
        [("c", ["0"])],
    ]
    assert repeated == []


def test_wrong_words_are_one_sentence(write, tmp_path, capsys):
    run = write("a-seed0", PCK=0.4)
    for words, said in (
        ([], "RUN_DIR is missing"),
        ([str(tmp_path / "nowhere")], "nowhere: no run here"),
        ([str(run), "baseline=b"], "baseline=b: there is no such row; known: a"),
        ([str(run), "metric=AP"], "did you mean 'metrics'"),
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_a_table_without_the_baseline_says_so(write, tmp_path):
    write("supervised-seed0", PCK=0.4)
    write("single-seed0", "steps=20", PCK=0.4)
    text, _ = table(tmp_path, baseline="supervised")
    assert text.count("; no supervised here") == 1


def test_a_card_of_an_older_version_is_named(write, tmp_path):
    folder = write("a-seed0", PCK=0.4)
    card = json.loads((folder / "card.json").read_text())
    del card["networks"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"card.json: there is no 'networks': it is of an older version"):
        table(tmp_path)


def test_the_command_prints_the_table_and_where_it_is_written(write, tmp_path, capsys):
    run = write("adaptive-seed0", PCK=0.4321)
    main([str(run), f"output={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    assert "43.2" in out
    assert f"written: {tmp_path / 'out' / 'compare.md'}" in out
    assert (tmp_path / "out" / "compare.md").is_file()
