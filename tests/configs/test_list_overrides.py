"""`key.0.key=value` words reach into lists; null and mappings lie over each other."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from semipose.configs.load import InputError, load
from semipose.configs.settings import settings


@settings
class Cutout:
    name: Literal["cutout"] = "cutout"
    count: int = 5


@settings
class Masks:
    name: Literal["masks"] = "masks"
    most: int = 8
    least: int = 2


@settings
class Mixup:
    beta: float = 0.75
    weight: float = 0.7


Part = Annotated[Cutout | Masks, Field(discriminator="name")]


@settings
class Run:
    paths: tuple[tuple[Part, ...], ...] = ((Masks(least=3),),)
    size_hw: tuple[int, int] = (256, 192)
    mixup: Mixup | None = Mixup(beta=0.2)
    weights: dict[str, float] = Field(default_factory=dict)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "r.yaml"
    file.write_text("paths: [[{name: masks, most: 10}, {name: cutout}], [{name: cutout, count: 2}]]\n")
    return file


def test_a_value_of_a_listed_part_is_changed_alone(recipe):
    run = load(Run, recipe, ["paths.0.0.least=1", "paths.1.0.count=3"])
    assert run.paths == ((Masks(most=10, least=1), Cutout()), (Cutout(count=3),))


def test_the_default_list_is_below_where_no_recipe_gives_one():
    assert load(Run, None, ["paths.0.0.most=6"]).paths == ((Masks(most=6, least=3),),)
    assert load(Run, None, ["size_hw.1=128"]).size_hw == (256, 128)


def test_a_scalar_or_a_list_replaces_and_a_mapping_merges(recipe):
    run = load(Run, recipe, ["paths.1=[]", "paths.0.0={least: 1}"])
    assert run.paths == ((Masks(most=10, least=1), Cutout()), ())


def test_another_name_starts_from_that_parts_defaults(recipe):
    assert load(Run, recipe, ["paths.0.0.name=cutout"]).paths[0][0] == Cutout()


def test_indices_change_a_whole_list_of_the_same_command_line():
    words = ["paths.0.0.count=1", "paths=[[{name: cutout}], []]"]
    assert load(Run, None, words).paths == load(Run, None, words[::-1]).paths == ((Cutout(count=1),), ())


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("paths.2.0.count=1", "paths[2]: there is no element 2: the list has 2 elements"),
        ("paths.1.1.count=1", "paths[1][1]: there is no element 1: the list has 1 element"),
        ("mixup.0=1", "mixup: an index needs a list below it, found a mapping"),
        ("paths.0.0.mots=1", "paths[0][0].mots: unknown setting (did you mean 'most'?)"),
        ("paths.0.0.most=x", "paths[0][0].most: expected a whole number, found the text 'x'"),
        ("path.0.most=1", "path: unknown setting (did you mean 'paths'?)"),
    ],
)
def test_a_wrong_index_or_value_is_one_line_with_its_place(recipe, word, line):
    with pytest.raises(InputError) as error:
        load(Run, recipe, [word])
    assert str(error.value) == f"command line: {line}"


def test_a_wrong_index_is_listed_with_all_other_errors(recipe):
    with pytest.raises(InputError) as error:
        load(Run, recipe, ["paths.7=1", "size_hw=3"])
    assert len(str(error.value).splitlines()) == 2


def test_a_recipe_cannot_reach_into_a_list(tmp_path):
    (tmp_path / "r.yaml").write_text('paths: {"0": {"0": {most: 1}}}\n')
    with pytest.raises(InputError, match="paths: expected a list"):
        load(Run, tmp_path / "r.yaml")


def test_null_lies_over_a_mapping_and_a_mapping_over_null(tmp_path):
    (tmp_path / "none.yaml").write_text("mixup: null\n")
    (tmp_path / "some.yaml").write_text("mixup: {beta: 0.5}\n")
    (tmp_path / "r.yaml").write_text("base: some.yaml\nmixup: null\n")
    assert load(Run, tmp_path / "r.yaml").mixup is None
    (tmp_path / "r.yaml").write_text("base: none.yaml\nmixup: {weight: 1.0}\n")
    assert load(Run, tmp_path / "r.yaml").mixup == Mixup(beta=0.2, weight=1.0)
    assert load(Run, tmp_path / "none.yaml", ["mixup.weight=1"]).mixup == Mixup(beta=0.2, weight=1.0)
