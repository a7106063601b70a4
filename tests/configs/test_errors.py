"""Every wrong setting is one line with its place, its path and the cure, and all come at once."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from semipose.configs.load import InputError, load
from semipose.configs.settings import settings


@settings
class Part:
    name: Literal["part"] = "part"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    low: int = 0
    high: int = 8

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: lower it")


@settings
class Other:
    name: Literal["other"] = "other"


@settings
class Data:
    train: str
    labelled: Annotated[int, Field(gt=0)] | Literal["all"] = "all"


@settings
class Run:
    data: Data
    steps: int = 10
    lr: float = 1e-3
    amp: bool = False
    decode: Literal["shift", "dark"] = "shift"
    size_hw: tuple[int, int] = (64, 64)
    limit: Annotated[int | None, Field(ge=1)] = None
    at: tuple[float, ...] = ()
    some: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    folder: Path = Path("x")
    weights: dict[str, float] = Field(default_factory=dict)
    part: Annotated[Part | Other, Field(discriminator="name")] = Part()
    parts: tuple[Part, ...] = ()
    maybe: Annotated[Part | Other, Field(discriminator="name")] | None = None


def problems(recipe=None, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(Run, recipe, overrides)
    return str(caught.value).splitlines()


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("step=3", "step: unknown setting (did you mean 'steps'?)"),
        ("data.labeled=3", "data.labeled: unknown setting (did you mean 'labelled'?)"),
        ("data.zzz=3", "data.zzz: unknown setting; known here: train, labelled"),
        ("part.gama=3", "part.gama: unknown setting (did you mean 'gamma'?)"),
        ("part.name=othr", "part.name: unknown name 'othr', known: part, other (did you mean 'other'?)"),
        ("part.name=3", "part.name: unknown name 3, known: part, other"),
        ("part=other", "part: expected a mapping with a `name` (part, other), found the text 'other'"),
        ("part=null", "part: expected a mapping with a `name` (part, other), found nothing (null)"),
        ("maybe.gamma=1", "maybe.name: missing: give one of part, other"),
        ("data=3", "data: expected a mapping of settings, found 3"),
        ("data.train.x=1", "data.train: expected text, found a mapping"),
        ("steps=true", "steps: expected a whole number, found true"),
        ("steps=1e3", "steps: expected a whole number, found 1000.0 (write 1000)"),
        ("steps=1_000", "steps: expected a whole number, found the text '1_000' (write 1000, "),
        ("steps='7'", "steps: expected a whole number, found the text '7' (write 7, without quotes"),
        ("steps=", "steps: expected a whole number, found nothing (null)"),
        ("lr=yes", "lr: expected a number, found the text 'yes'"),
        ("lr=.inf", "lr: expected a number, found inf (it must be finite)"),
        ("steps=.nan", "steps: expected a whole number, found nan (it must be finite)"),
        ("lr=nan", "lr: expected a number, found the text 'nan' (the number must be finite)"),
        ("lr='-inf'", "lr: expected a number, found the text '-inf' (the number must be finite)"),
        ("steps=Infinity", "steps: expected a whole number, found the text 'Infinity' (the number must be"),
        ("lr=[1]", "lr: expected a number, found the list [1]"),
        ("amp=1", "amp: expected true or false, found 1"),
        ("amp=no", "amp: expected true or false, found the text 'no'"),
        ("decode=drak", "decode: expected 'shift' or 'dark', found the text 'drak' (did you mean 'dark'?)"),
        ("size_hw=[1]", "size_hw: expected a list of 2 (each a whole number), found the list [1]"),
        (
            "size_hw=[1, 2, 3]",
            "size_hw: expected a list of 2 (each a whole number), found the list [1, 2, 3]",
        ),
        ("size_hw=[1, a]", "size_hw[1]: expected a whole number, found the text 'a'"),
        ("size_hw=3", "size_hw: expected a list of 2 (each a whole number), found 3"),
        ("at=[0.5, a]", "at[1]: expected a number, found the text 'a'"),
        ("some=[a]", "some[0]: expected a whole number, found the text 'a'"),
        ("some=[]", "some: expected a list (each a whole number) of length >= 1, found the list []"),
        ("limit=0", "limit: expected a whole number >= 1 or null, found 0"),
        ("weights.a=b", "weights.a: expected a number, found the text 'b'"),
        ("parts=[{gamma: 2}]", "parts[0].gamma: expected a number > 0 <= 1, found 2"),
        ("data.labelled=0", "data.labelled: expected a whole number > 0 or 'all', found 0"),
        ("data.labelled=al", "data.labelled: expected a whole number > 0 or 'all', found the text 'al' (did"),
        ("part.low=9", "part: low 9 is above high 8: lower it"),
        ("parts=[{low: 9}]", "parts[0]: low 9 is above high 8: lower it"),
    ],
)
def test_one_wrong_value_is_one_line(override, line):
    found = problems(None, "data.train=x", override)
    assert len(found) == 1
    assert found[0].startswith(f"command line: {line}")


def test_missing_setting_says_what_to_give():
    assert problems() == ["command line: data: missing: give a mapping of settings"]
    assert problems(None, "data.labelled=3") == ["command line: data.train: missing: give text"]


def test_all_problems_come_at_once_each_with_its_place(tmp_path):
    write(tmp_path, "base.yaml", "steps: x\nlr: x\n")
    recipe = write(tmp_path, "r.yaml", "base: base.yaml\nlr: fast\ndata:\n  labelled: 0\nstps: 3\n")
    assert sorted(problems(recipe, "decode=no", "oops", "at=[")) == sorted(
        [
            f"{tmp_path}/base.yaml:1: steps: expected a whole number, found the text 'x'",
            f"{recipe}:2: lr: expected a number, found the text 'fast'",
            f"{recipe}:3: data.train: missing: give text",
            f"{recipe}:4: data.labelled: expected a whole number > 0 or 'all', found 0",
            f"{recipe}:5: stps: unknown setting (did you mean 'steps'?)",
            "command line: decode: expected 'shift' or 'dark', found the text 'no'",
            "command line: 'oops' is not of the form key.path=value",
            "command line: at: this is not YAML: while parsing a flow node, expected the node content, but "
            "found '<stream end>': complete it, or put quotes around a text that holds such signs",
        ]
    )


@pytest.mark.parametrize("word", ["steps", "=3", "a..b=3", "a-b=3", ".a=3", "a.=3", "1=3"])
def test_malformed_override_is_named(word):
    assert problems(None, "data.train=x", word) == [
        f"command line: {word!r} is not of the form key.path=value"
    ]


def test_absent_recipe_names_the_nearest(tmp_path):
    write(tmp_path, "adaptive.yaml", "")
    wanted = tmp_path / "adaptve.yaml"
    assert problems(wanted) == [f"{wanted}: no such file (did you mean {tmp_path / 'adaptive.yaml'}?)"]
    nowhere = tmp_path / "none" / "r.yaml"
    assert problems(nowhere) == [f"{nowhere}: no such file (there is no folder {nowhere.parent})"]


def test_folder_binary_and_list_are_no_recipes(tmp_path):
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert problems(tmp_path / "b.yaml") == [f"{tmp_path}/b.yaml: this is not a text file in UTF-8"]
    recipe = write(tmp_path, "l.yaml", "- 1\n")
    assert problems(recipe) == [f"{recipe}: a recipe must be `key: value` lines, this is the list [1]"]


def test_absent_bases_and_circles_are_named_together(tmp_path):
    write(tmp_path, "other.yaml", "base: r.yaml\n")
    recipe = write(tmp_path, "r.yaml", "steps: 3\nbase: [gone.yaml, other.yaml]\n")
    assert problems(recipe) == [
        f"{recipe}:2: base: {tmp_path}/gone.yaml: no such file",
        f"{tmp_path}/other.yaml:1: base: {recipe} leads back to itself; take this `base:` away",
    ]


@pytest.mark.parametrize(
    "base",
    ["3", "[1]", "null", "{a: b}", "''", r'"a\0b"', "x" * 10_000, f"[{'x' * 256}]"],
    ids=lambda base: base[:9],
)
def test_base_must_be_paths(tmp_path, base):
    recipe = write(tmp_path, "r.yaml", f"base: {base}\n")
    assert problems(recipe)[0].startswith(f"{recipe}:1: base: expected a path or a list of paths, found ")


def test_value_under_a_replaced_plugin_does_not_lend_its_line(tmp_path):
    write(tmp_path, "base.yaml", "\n\ndata: {train: x}\nmaybe: {name: part, gamma: 1}\n")
    recipe = write(tmp_path, "r.yaml", "base: base.yaml\nmaybe: {name: other, gamma: 2}\n")
    assert problems(recipe) == [f"{recipe}:2: maybe.gamma: unknown setting; known here: name"]


def test_bases_that_name_each_other_many_times_are_read_once(tmp_path):
    """A doubling at each level: 2^60 layers would never end."""
    write(tmp_path, "b0.yaml", "steps: 7\n")
    for level in range(1, 40):
        name = f"b{level - 1}.yaml"
        write(tmp_path, f"b{level}.yaml", f"base: [{name}, {name}]\ndata: {{train: x}}\n")
    assert load(Run, tmp_path / "b39.yaml").steps == 7
    write(tmp_path, "b40.yaml", "base: [b39.yaml, b39.yaml]\n")
    write(tmp_path, "b41.yaml", "base: b40.yaml\n")
    assert problems(tmp_path / "b41.yaml") == [
        f"{tmp_path}/b1.yaml:1: base: the files name each other more than 40 deep: merge some"
    ]


def test_a_fault_of_a_base_that_two_files_name_is_listed_once(tmp_path):
    write(tmp_path, "root.yaml", "lr: [\n")
    write(tmp_path, "x.yaml", "base: root.yaml\n")
    write(tmp_path, "y.yaml", "base: root.yaml\n")
    assert len(problems(write(tmp_path, "r.yaml", "base: [x.yaml, y.yaml]\n"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"a: !{'x' * 90_000} 1",
        f"a: *{'x' * 90_000}",
        f"? {'x' * 90_000}\n: 1\n? {'x' * 90_000}\n: 2",
        f"? {'x' * 90_000}\n: 1",
        f"lr: {'x' * 90_000}",
        f"base: {'x' * 90_000}",
    ],
    ids=["tag", "alias", "key twice", "key", "value", "base"],
)
def test_an_error_does_not_print_a_giant_text(tmp_path, text):
    assert max(map(len, problems(write(tmp_path, "r.yaml", text)))) < 400 + len(str(tmp_path))
