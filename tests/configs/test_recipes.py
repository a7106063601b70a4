"""Every recipe loads, says what it is for, and round-trips; so does every method by every protocol."""

import fnmatch
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from semipose.configs import yaml12
from semipose.configs.load import InputError, dump, load
from semipose.configs.schema import fields, is_settings, plugins
from semipose.sharding.build import BuildSettings
from semipose.training.experiments.sweep_plan import SweepSettings, plan
from semipose.training.methods.consistency import ConsistencySettings
from semipose.training.settings import RunSettings, load_run

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
CLASSES = {"shards": BuildSettings, "sweeps": SweepSettings}
RECIPES = [(folder, file) for folder in CLASSES for file in sorted((CONFIGS / folder).rglob("*.yaml"))]
SWEEPS = [file for folder, file in RECIPES if folder == "sweeps"]
PROTOCOLS = sorted((CONFIGS / "protocols").glob("*.yaml"))
METHODS = sorted((CONFIGS / "methods").glob("*.yaml"))
PAIRS = [(protocol, method) for protocol in PROTOCOLS for method in METHODS]
ROUND_TRIPS = [
    *((protocol, CONFIGS / "methods" / "supervised.yaml") for protocol in PROTOCOLS),
    *(
        (CONFIGS / "protocols" / "coco-1k.yaml", method)
        for method in METHODS
        if method.stem != "detector_free"
    ),
    (CONFIGS / "protocols" / "coco-photos.yaml", CONFIGS / "methods" / "detector_free.yaml"),
]
"""Every protocol and every method, each at least once."""
OF_PHOTOS = ("detector_free", "supervised")
"""Methods that run by protocols of whole photos; of these, only the second runs by the others too."""


@cache
def loaded(file: Path, cls: type) -> Any:
    return load(cls, file)


def name(value: object) -> str | None:
    return str(value.relative_to(CONFIGS)) if isinstance(value, Path) else None


@pytest.mark.parametrize("folder", CLASSES)
def test_there_are_recipes(folder):
    assert any(each == folder for each, _ in RECIPES)


def test_the_recipes_are_few():
    """A method by every protocol needs no file of its own."""
    assert len(list(CONFIGS.rglob("*.yaml"))) <= 90


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


@pytest.mark.parametrize("cls", [RunSettings, *CLASSES.values()])
def test_every_setting_has_a_meaning(cls):
    assert without_meaning(cls, set()) == []


def choices(cls: type, seen: set[type]) -> list[tuple[str, str]]:
    """(key, value) of everything that can be chosen by a word in `cls` and below; defaults left out."""
    found = []
    for key, field in fields(cls).items():
        found += [
            (key, value) for value in words_in(field.annotation) if value != field.default or key == "name"
        ]
        for inner in set(classes_in(field.annotation)) - seen:
            seen.add(inner)
            found += choices(inner, seen)
    return found


def words_in(kind: Any) -> list[str]:
    """The texts of a Literal."""
    values = get_args(kind)
    return [value for value in values if isinstance(value, str)] + [
        word for value in values if not is_settings(value) for word in words_in(value)
    ]


@pytest.mark.parametrize("cls", [RunSettings, BuildSettings])
def test_every_choice_is_shown_by_a_recipe_or_its_header(cls):
    text = "\n".join(file.read_text() for file in CONFIGS.rglob("*.yaml"))
    hidden = [pair for pair in choices(cls, set()) if not re.search(r"\b{}[:=].*\b{}\b".format(*pair), text)]
    assert hidden == []


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=name)
def test_recipe_opens_with_what_it_is_for(file):
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize(("protocol", "method"), PAIRS, ids=name)
def test_every_method_runs_by_every_protocol(protocol, method):
    bare = loaded(protocol, RunSettings)
    fits = method.stem in OF_PHOTOS if bare.kind == "image" else method.stem != "detector_free"
    if not fits:
        with pytest.raises(InputError, match="choose another method or another protocol"):
            load_run([protocol, method])
        return
    run = load_run([protocol, method])
    assert run.output == f"runs/{protocol.stem}/{method.stem}"
    assert run.protocol == protocol.stem
    shared = (
        "data",
        "net",
        "heatmap",
        "codec",
        "evaluation",
        "labelled_batch",
        "unlabelled_batch",
        "metric",
        "seed",
    )
    assert {key: getattr(run, key) for key in shared} == {key: getattr(bare, key) for key in shared}


@pytest.mark.parametrize(("protocol", "method"), ROUND_TRIPS, ids=name)
def test_a_run_round_trips(protocol, method, tmp_path):
    run = load_run([protocol, method])
    (tmp_path / "dumped.yaml").write_text(dump(run))
    assert load_run([tmp_path / "dumped.yaml"]) == run


def test_published_rows_say_where_their_differences_are_listed():
    header = (CONFIGS / "base" / "coco.yaml").read_text().replace("\n# ", " ")
    assert "What differs from the published runs on purpose" in header
    assert "method.outside=background counts them as empty, as published" in header
    assert ConsistencySettings().outside == "ignore"
    for protocol in (file for file in PROTOCOLS if re.match(r"coco|mpii", file.stem)):
        assert (
            "coco" in re.sub(r"# .*", "", protocol.read_text())
            or "configs/base/coco.yaml" in protocol.read_text()
        )


@pytest.mark.parametrize("file", METHODS, ids=name)
def test_a_method_prints_no_number_of_another_one(file):
    """What a base publishes would be printed for the method, unless the method has its own number."""
    text = file.read_text()
    photos = ["net.head.name=dekr", "codec.name=dekr"] if file.stem == "detector_free" else []
    assert set(load_run([file], ["data.train=a", "data.val=b", *photos]).published) == set(
        (yaml12.parse(text, "").value or {}).get("published", {})
    )


@pytest.mark.parametrize("file", [*METHODS, *PROTOCOLS, *sorted((CONFIGS / "base").glob("*.yaml"))], ids=name)
def test_every_condition_of_a_recipe_can_hold(file):
    names = {
        "protocol": {protocol.stem for protocol in PROTOCOLS},
        "method.name": set(plugins_of_methods()),
        "net.head.name": {"ae", "dekr", "cid"},
    }
    for setting, choices in yaml12.parse(file.read_text(), "").value.get("when", {}).items():
        for pattern in " ".join(choices).split():
            assert fnmatch.filter(names[setting], pattern), pattern


def plugins_of_methods() -> list[str]:
    return list(plugins(fields(RunSettings)["method"].annotation))


@pytest.mark.parametrize("labels", [50, 100, 200, 400])
def test_a_protocol_without_pretrained_weights_has_the_regime_for_them(labels):
    """The labelled people alone first, then an averaged teacher on gentle weak views (docs/results.md)."""
    protocol = CONFIGS / "protocols" / f"drawn-{labels}.yaml"
    for method in ("single_affine", "adaptive_mixup", "dual_cutout", "double_match", "triple"):
        cfg = load_run([protocol, CONFIGS / "methods" / f"{method}.yaml"])
        assert (cfg.method.burn_in, cfg.method.teacher.momentum, cfg.views.weak.scale_sd) == (
            0.25,
            0.99,
            0.05,
        )
        assert cfg.method.min_peak == (0.1 if method == "triple" else 0.5)
    supervised = load_run([protocol, CONFIGS / "methods" / "supervised.yaml"])
    assert supervised.views.weak.scale_sd == 0.25
    published = load_run([CONFIGS / "protocols" / "coco-1k.yaml", CONFIGS / "methods" / "dual_cutout.yaml"])
    assert (published.method.burn_in, published.method.teacher.name) == (0.0, "shared")


@pytest.mark.parametrize("labelled", [100, 250, 500])
def test_lspet_takes_the_first_photos_and_hides_the_others_labels(labelled):
    cfg = load(RunSettings, CONFIGS / "protocols" / f"lspet-{labelled}.yaml")
    assert (cfg.data.labelled, cfg.data.subset_seed, cfg.data.unlabelled) == (labelled, None, None)
    assert not cfg.data.unlabelled_includes_labelled
    assert (cfg.views.size_hw, cfg.steps, cfg.metric, cfg.net.pretrained) == ((192, 144), 20000, "PCK", False)


@pytest.mark.parametrize(
    ("cls", "text", "said"),
    [
        (RunSettings, "images: []\nannotations: []\n", "an annotation file and no recipe: `semipose init "),
        (BuildSettings, "images: []\nannotations: []\n", "an annotation file and no recipe: `semipose init "),
        (
            RunSettings,
            "source: {name: coco}\norder: grouped\n",
            "a recipe for shards: give it to `semipose s",
        ),
        (BuildSettings, "data: {train: a}\nnet: {}\n", "a recipe for a run: give it to `semipose train`"),
    ],
)
def test_a_file_for_another_command_is_one_sentence(cls, text: str, said: str, tmp_path):
    (tmp_path / "given.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load(cls, tmp_path / "given.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'given.yaml'}: this is {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "has_score"),
    [
        ("data.train=elsewhere", True),
        ("data.labelled=5000", False),
        ("data.unlabelled=others", False),
        ("data.unlabelled_includes_labelled=false", False),
        ("data.sources=[{shards: taught}]", False),
    ],
)
def test_a_run_on_other_people_has_no_published_score(word: str, has_score: bool):
    files = [CONFIGS / "protocols" / "coco-1k.yaml", CONFIGS / "methods" / "single_cutout.yaml"]
    assert bool(load_run(files, [word]).published) == has_score


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.labelled=500"], "data: labelled_share and labelled both say .*: set labelled to all, or"),
        (
            ["data.subset_seed=3"],
            "labelled_share and subset_seed both say .*: set subset_seed to null, or",
        ),
        (["data.labelled_share=null", "data.fold=2"], "data: fold is one of the choices of labelled_share: "),
    ],
)
def test_settings_of_the_labelled_people_that_would_be_ignored_are_refused(words: list[str], said: str):
    files = [CONFIGS / "protocols" / "coco-photos.yaml", CONFIGS / "methods" / "detector_free.yaml"]
    with pytest.raises(InputError, match=said):
        load_run(files, words)


@pytest.mark.parametrize("protocol", ["coco-photos", "crowdpose-photos"])
def test_labelled_photos_are_not_unlabelled_too(protocol):
    """The headers say: all others unlabelled."""
    cfg = load_run([CONFIGS / "protocols" / f"{protocol}.yaml", CONFIGS / "methods" / "detector_free.yaml"])
    assert (cfg.data.labelled_share, cfg.data.unlabelled_includes_labelled) == (0.01, False)


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
    assert rows == [(f"coco-{n}", *kind) for kind in kinds for n in ("1k", "5k", "10k")]


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


@pytest.mark.parametrize("protocol", ["coco-photos", "crowdpose-photos"])
@pytest.mark.parametrize("method", ["supervised", "detector_free"])
@pytest.mark.parametrize(("family", "branches"), [("dekr", 4), ("cid", 4), ("ae", 1)])
def test_a_family_of_whole_photos_takes_one_word(protocol, method, family, branches):
    recipes = [CONFIGS / "protocols" / f"{protocol}.yaml", CONFIGS / "methods" / f"{method}.yaml"]
    cfg = load_run(recipes, [f"net.head.name={family}", "data.labelled_share=0.05", "data.fold=3"])
    assert (cfg.codec.name, cfg.net.head.name, cfg.net.backbone.branches) == (family, family, branches)
    assert (cfg.kind, cfg.data.labelled_share, cfg.data.fold) == ("image", 0.05, 3)


@pytest.mark.parametrize("protocol", ["scenes", "coco-photos", "crowdpose-photos"])
def test_cid_starts_from_weights_from_which_it_tells_people_apart(protocol):
    recipes = [CONFIGS / "protocols" / f"{protocol}.yaml", CONFIGS / "methods" / "supervised.yaml"]
    assert load_run(recipes, ["net.head.name=cid"]).net.head.start_std == 0.1


@pytest.mark.parametrize(("family", "use"), [("dekr", "instances"), ("ae", "heatmaps"), ("cid", "heatmaps")])
def test_each_family_is_taught_by_what_was_best_for_it(family, use):
    recipes = [CONFIGS / "protocols" / "coco-photos.yaml", CONFIGS / "methods" / "detector_free.yaml"]
    assert load_run(recipes, [f"net.head.name={family}"]).method.use == use


@pytest.mark.parametrize("use", ["heatmaps", "instances", "both"])
def test_the_ablation_of_detector_free_is_one_setting(use):
    recipes = [CONFIGS / "protocols" / "coco-photos.yaml", CONFIGS / "methods" / "detector_free.yaml"]
    assert load_run(recipes, [f"method.use={use}"]).method.use == use


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("coco-photos", ["codec.name=ae"], r"net.head 'dekr' does not give the maps of codec 'ae'"),
        ("coco-photos", ["codec=null"], r"net.head 'dekr' does not give the maps of single people"),
        ("coco-1k", ["codec.name=dekr"], r"net.head 'deconv' does not give the maps of codec 'dekr'"),
        (
            "coco-photos",
            ["method.name=dual"],
            r"method 'dual' trains on single people .*choose another method.*: supervised, detector_free\)",
        ),
        (
            "coco-photos",
            ["method.name=pseudo_label", "steps=600"],
            r"\(methods .*\)\. For the labels of a frozen teacher .*previous_epoch, epoch_steps: 300\}\"$",
        ),
        ("coco-1k", ["method.name=detector_free"], r"method 'detector_free' trains on whole photos"),
    ],
)
def test_head_codec_and_method_must_fit(recipe, words, message):
    with pytest.raises(InputError, match=message):
        load_run([CONFIGS / "protocols" / f"{recipe}.yaml"], words)


def test_the_advice_about_pseudo_labels_on_whole_photos_is_itself_a_recipe():
    recipe = CONFIGS / "protocols" / "coco-photos.yaml"
    with pytest.raises(InputError) as error:
        load_run([recipe], ["method.name=pseudo_label", "steps=600"])
    advice = str(error.value).split("take detector_free with ")[1]
    words = [
        word for word in shlex.split(advice.replace(", method", " method")) if "=" in word or ":" in word
    ]
    cfg = load_run([recipe], ["method.name=detector_free", "steps=600", *words])
    assert (cfg.method.use, cfg.method.burn_in) == ("instances", 0.5)
    assert (cfg.method.teacher.name, cfg.method.teacher.epoch_steps) == ("previous_epoch", 300)
