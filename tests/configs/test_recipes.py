"""Every recipe of the repository loads, says where it comes from, and round-trips."""

import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from configs.load import dump, load
from configs.schema import fields, is_settings
from sharding.build import BuildSettings
from training.methods.consistency import ConsistencySettings
from training.settings import RunSettings
from training.sweep_plan import SweepSettings, plan

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
CLASSES = {"run": RunSettings, "shards": BuildSettings, "sweeps": SweepSettings}
RECIPES = [(folder, file) for folder in CLASSES for file in sorted((CONFIGS / folder).rglob("*.yaml"))]
RUNS = [file for folder, file in RECIPES if folder == "run"]
SWEEPS = [file for folder, file in RECIPES if folder == "sweeps"]
PROTOCOLS = sorted((CONFIGS / "protocols").glob("*.yaml"))
PROTOCOL_NAMES = {file.stem: file for file in PROTOCOLS}


@cache
def loaded(file: Path, cls: type = RunSettings) -> Any:
    return load(cls, file)


def name(value: object) -> str | None:
    return str(value.relative_to(CONFIGS)) if isinstance(value, Path) else None


@pytest.mark.parametrize("folder", CLASSES)
def test_there_are_recipes(folder):
    assert any(each == folder for each, _ in RECIPES)


@pytest.mark.parametrize(("folder", "file"), RECIPES, ids=name)
def test_recipe_loads_and_round_trips(folder, file, tmp_path):
    cls = CLASSES[folder]
    settings = loaded(file, cls)
    (tmp_path / "dumped.yaml").write_text(dump(settings))
    assert load(cls, tmp_path / "dumped.yaml") == settings


def without_meaning(cls: type, seen: set[type]) -> list[str]:
    """The settings of `cls` and of all that lies under it that `--help` says nothing about."""
    found = []
    for key, field in fields(cls).items():
        found += [f"{cls.__name__}.{key}"] if key != "name" and not field.description else []
        for inner in set(classes_in(field.annotation)) - seen:
            seen.add(inner)
            found += without_meaning(inner, seen)
    return found


def classes_in(kind: Any) -> list[type]:
    """The classes of settings anywhere in a type."""
    return [kind] if is_settings(kind) else [cls for inner in get_args(kind) for cls in classes_in(inner)]


@pytest.mark.parametrize("cls", CLASSES.values())
def test_every_setting_has_a_meaning(cls):
    assert without_meaning(cls, set()) == []


@pytest.mark.parametrize(("folder", "file"), RECIPES, ids=name)
def test_recipe_opens_with_what_it_is_for(folder, file):
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", RUNS, ids=name)
def test_a_run_tells_its_numbers_its_cost_and_its_command(file):
    header = "".join(line for line in file.read_text().splitlines(True) if line.startswith("#"))
    assert re.search(r"Published: |`make demo`|Own ", header)
    assert "Ours" in header
    assert "Hardware" in header
    assert f"accelerate launch training/run.py {file.relative_to(ROOT)}" in header
    assert loaded(file).output == f"runs/{file.parent.name}/{file.stem}"


def test_published_rows_say_where_their_differences_are_listed():
    rows = [file for file in RUNS if re.match(r"coco|mpii", file.parent.name)]
    said = "What differs from the published run on purpose is said in configs/base/coco.yaml."
    assert [file for file in rows if said not in file.read_text()] == []
    assert "method.outside=background counts them as empty, as published" in (
        CONFIGS / "base" / "coco.yaml"
    ).read_text().replace("\n# ", " ")
    assert ConsistencySettings().outside == "ignore"


@pytest.mark.parametrize("file", PROTOCOLS, ids=name)
def test_a_protocol_bears_the_name_of_its_file(file):
    assert load(RunSettings, file, ["output=x"]).protocol == file.stem


@pytest.mark.parametrize("file", [run for run in RUNS if run.parent.name in PROTOCOL_NAMES], ids=name)
def test_a_run_keeps_the_protocol_of_its_folder(file):
    run, protocol = loaded(file), load(RunSettings, PROTOCOL_NAMES[file.parent.name], ["output=x"])
    assert run.protocol == protocol.protocol
    assert (run.data, run.net, run.heatmap, run.evaluation) == (
        protocol.data,
        protocol.net,
        protocol.heatmap,
        protocol.evaluation,
    )


@pytest.mark.parametrize("labelled", [100, 250, 500])
def test_lspet_takes_the_first_photos_and_hides_the_others_labels(labelled):
    cfg = load(RunSettings, CONFIGS / "protocols" / f"lspet-{labelled}.yaml", ["output=x"])
    assert (cfg.data.labelled, cfg.data.subset_seed, cfg.data.unlabelled) == (labelled, None, None)
    assert not cfg.data.unlabelled_includes_labelled
    assert (cfg.views.size_hw, cfg.steps, cfg.metric, cfg.net.pretrained) == ((192, 144), 20000, "PCK", False)


@pytest.mark.parametrize("file", SWEEPS, ids=name)
def test_a_sweep_can_be_planned(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = loaded(file, SweepSettings)
    items = plan(cfg)
    assert f"python training/sweep.py {file.relative_to(ROOT)}" in file.read_text()
    if cfg.baseline is not None:
        stems = {item.folder.name.removesuffix(f"-seed{item.cfg.seed}") for item in items}
        assert cfg.baseline in stems


def test_the_sweep_of_table_3_is_masks_and_mixtures_each_off_and_on(monkeypatch):
    """docs/methods.md 9.1; the published row with neither is the run of Xie et al., of weight 1."""
    monkeypatch.chdir(ROOT)
    items = plan(load(SweepSettings, CONFIGS / "sweeps" / "table3.yaml", ["seeds=[0]"]))
    rows = [
        (item.cfg.protocol, len(method.paths[0]), method.mixup is not None, method.weight)
        for item in items
        for method in [item.cfg.method]
    ]
    kinds = [(0, False, 1.0), (1, False, 0.7), (0, True, 0.7), (1, True, 0.7)]
    assert rows == [(f"coco-{n}", *kind) for n in ("1k", "5k", "10k") for kind in kinds]


@pytest.mark.parametrize(
    ("sweep", "deconvolutions"), [("table5", "head.deconvs"), ("drawn_layers", "head")], ids=str
)
def test_the_sweep_of_table_5_mixes_images_too_wherever_it_mixes_features(sweep, deconvolutions, monkeypatch):
    """docs/methods.md 9, rows 17 and 18: "image-level mixing is also applied simultaneously"."""
    monkeypatch.chdir(ROOT)
    items = plan(load(SweepSettings, CONFIGS / "sweeps" / f"{sweep}.yaml", ["seeds=[0]"]))
    features = ["backbone.layer1", "backbone.layer3", deconvolutions, "head.final"]
    layers = [item.cfg.method.mixup.layers for item in items]
    assert layers[:5] == [("input",), *(("input", feature) for feature in features)]
    assert {item.cfg.method.mixup.passes for item in items} == {"one"}


def test_the_other_reading_of_table_5_is_a_word_on_the_command_line(monkeypatch):
    monkeypatch.chdir(ROOT)
    file = CONFIGS / "sweeps" / "table5.yaml"
    (word,) = re.findall(r'"(set=.*)"', file.read_text())
    items = plan(load(SweepSettings, file, [word]))
    assert {(item.cfg.method.mixup.passes, item.cfg.method.weight) for item in items} == {("all", 0.7)}


def test_bases_are_used():
    """A file in configs/base that no recipe names is dead."""
    texts = [file.read_text() for file in CONFIGS.rglob("*.yaml")]
    for base in (CONFIGS / "base").rglob("*.yaml"):
        assert any(re.search(rf"[ /]{re.escape(base.name)}", text) for text in texts), base
