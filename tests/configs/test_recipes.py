"""Every recipe of the repository loads, says where it comes from, and round-trips."""

from pathlib import Path

import pytest

from configs.load import dump, load
from sharding.build import BuildSettings
from training.settings import RunSettings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = {"run": RunSettings, "shards": BuildSettings}
RECIPES = [(folder, file) for folder in CLASSES for file in sorted((CONFIGS / folder).rglob("*.yaml"))]
IDS = [str(file.relative_to(CONFIGS)) for _, file in RECIPES]


@pytest.mark.parametrize("folder", CLASSES)
def test_there_are_recipes(folder):
    assert any(name == folder for name, _ in RECIPES)


@pytest.mark.parametrize(("folder", "file"), RECIPES, ids=IDS)
def test_recipe_loads_and_round_trips(folder, file, tmp_path):
    cls = CLASSES[folder]
    settings = load(cls, file)
    (tmp_path / "dumped.yaml").write_text(dump(settings))
    assert load(cls, tmp_path / "dumped.yaml") == settings


@pytest.mark.parametrize(
    "file", [f for _, f in RECIPES], ids=[str(f.relative_to(CONFIGS)) for _, f in RECIPES]
)
def test_recipe_opens_with_what_it_is_for(file):
    assert file.read_text().startswith("# ")


def test_bases_are_used():
    """A file in configs/base that no recipe names is dead."""
    texts = [file.read_text() for file in CONFIGS.rglob("*.yaml")]
    for base in (CONFIGS / "base").rglob("*.yaml"):
        assert any(base.name in text for text in texts), base
