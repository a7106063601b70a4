"""A value on the command line means what was typed: for a text or a path all of it, else what YAML reads."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as rules
from hypothesis import strategies as st
from pydantic import Field

from semipose.configs.load import CONFIGS, InputError, load
from semipose.configs.settings import settings
from semipose.training.settings import load_run


@settings
class Folder:
    name: Literal["folder"] = "folder"
    images: str | Path = "photos"
    weights: Path | None = None


@settings
class Coco:
    name: Literal["coco"] = "coco"
    category: str | tuple[str, ...] | None = None


@settings
class Build:
    title: str = "x"
    output: Path = Path("out")
    note: str | None = "n"
    source: Annotated[Folder | Coco, Field(discriminator="name")] = Folder()
    executor: str = Field(default="local", pattern="^(local|dask:.*)$")
    steps: int = 3
    count: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    image_id: int | str | None = None
    keypoints: tuple[str, ...] = ("nose", "neck")
    places: dict[str, Path] = Field(default_factory=dict)
    free: dict[str, Any] = Field(default_factory=dict)


def given_on_the_command_line(*words: str) -> Build:
    return load(Build, None, words)


def problem_of(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        load(Build, None, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_quoted(text: str) -> bool:
    return text[:1] in ("'", '"') and text[-1:] == text[:1]


# Whatever an argument can hold; what stands in quotes as a whole, and `~/`, have a meaning of their own.
TYPED = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(
    lambda text: not is_quoted(text) and not text.startswith("~")
)


@rules(deadline=None)
@given(TYPED)
@example("photos #2")
@example("my set #1/images")
@example("2025")
@example("1e-3")
@example("true")
@example("null")
@example("[2024] trip")
@example("[2024]")
@example("{a: b}")
@example("a: b")
@example("@home")
@example("- dash")
@example("a\tb")
@example(" spaces around ")
@example("*star")
@example("&and")
@example("!bang")
@example("%percent")
@example("`tick`")
@example("it's")
@example("'a' and 'b'x")
@example("C:\\photos\\new")
@example("line\nline")
@example("---")
@example("# all of it")
def test_any_text_is_the_value_of_a_text_and_of_a_path(text):
    build = given_on_the_command_line(f"title={text}", f"source.images={text}", f"output={text}")
    assert (build.title, build.source.images, build.output) == (text, text, Path(text))


@rules(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=20))
@example("photos #2")
@example("null")
@example("")
@example("'x'")
@example("\U0001f600")
def test_a_quoted_text_is_what_yaml_and_json_say(text):
    """So are the words that a sweep hands on. `~/` is the home folder, which a test below says."""
    assume(not text.startswith("~/"))
    for ascii_only in (False, True):
        assert given_on_the_command_line(f"title={json.dumps(text, ensure_ascii=ascii_only)}").title == text
    if text.isprintable():
        quoted = "'" + text.replace("'", "''") + "'"
        assert given_on_the_command_line(f"title={quoted}").title == text


def test_null_and_other_types_of_a_union_stay():
    for word in ("null", "~", "Null", ""):
        assert given_on_the_command_line(f"note={word}").note is None
        assert given_on_the_command_line("source.weights=x", f"source.weights={word}").source.weights is None
    assert given_on_the_command_line("note='null'").note == "null"
    assert given_on_the_command_line("image_id=7").image_id == 7
    assert given_on_the_command_line("image_id='7'").image_id == "7"
    assert given_on_the_command_line("image_id=7 #").image_id == "7 #"
    for typed, category in (
        ("[dog, cat]", ("dog", "cat")),
        ("[dog", "[dog"),
        ("'[dog]'", "[dog]"),
        ("7", "7"),
    ):
        build = given_on_the_command_line("source.name=coco", f"source.category={typed}")
        assert build.source.category == category


def test_the_plug_in_that_a_later_word_chooses_decides():
    build = given_on_the_command_line("source.category=a #1", "source.name=coco")
    assert build.source == Coco(category="a #1")
    assert given_on_the_command_line("source={name: coco}", "source.category=#1").source == Coco(
        category="#1"
    )


def test_texts_inside_lists_and_mappings():
    assert given_on_the_command_line("keypoints.1=a #1").keypoints == ("nose", "a #1")
    assert given_on_the_command_line("places.a=x #1").places == {"a": Path("x #1")}
    assert given_on_the_command_line("keypoints=['a #1', b]").keypoints == ("a #1", "b")
    assert given_on_the_command_line("free={a: 'b #1', c: 2}").free == {"a": "b #1", "c": 2}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "steps=3 # three",
            "steps: '# three' is a comment here, which would be dropped: leave it out, or put",
        ),
        ("count=all #", "count: '#' is a comment here"),
        ("keypoints=[a] # b", "keypoints: '# b' is a comment here"),
        ("keypoints=[a, # b\nc]", "keypoints: '# b' is a comment here"),
        ("source={name: coco} #1", "source: '#1' is a comment here"),
        ("source.name=coco #1", "source.name: '#1' is a comment here"),
        ("free={a: b} #1", "free: '#1' is a comment here"),
        ("keypoints=[a, b #1]", "keypoints: this is not YAML: "),
        ("steps=@3", "steps: this is not YAML: "),
        ("steps=", "steps: expected a whole number, found nothing (null)"),
        ("title=", "title: expected text, found nothing (null)"),
        ("output=", "output: expected a path, found nothing (null)"),
        ("keypoints=[1, 2]", "keypoints[0]: expected text, found 1 (put quotes around it)"),
        ("tilte=[", "tilte: this is not YAML: "),
        ("title=a\udc80b", "title: this is not UTF-8: "),
        ("executor=a #1", "executor: String should match pattern '^(local|dask:.*)$', found the text 'a #1'"),
    ],
)
def test_what_yaml_would_drop_or_cannot_read_is_one_line(word, said):
    assert problem_of(word, *["keypoints.1=c"] * word.startswith("keypoints=[1")).startswith(
        f"command line: {said}"
    )


def test_the_home_folder_is_found_from_words_and_files(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/ann")
    build = given_on_the_command_line(
        "source.images=~/a b", "output=~", "title=~", "source.weights=~/w", "keypoints=[~/a, '~', ./~/x]"
    )
    assert build.source == Folder(images="/ann/a b", weights=Path("/ann/w"))
    assert (build.output, build.title) == (Path("/ann"), "~")
    assert build.keypoints == ("/ann/a", "~", "./~/x")
    assert given_on_the_command_line("output=~nobody-here/x").output == Path("~nobody-here/x")
    assert given_on_the_command_line("title=a~/b").title == "a~/b"
    base, recipe = tmp_path / "base.yaml", tmp_path / "r.yaml"
    base.write_text("source: {images: ~/photos}\nplaces: {a: ~/b}\n")  # the name stands in the recipe
    recipe.write_text("base: base.yaml\nsource: {name: folder}\nfree: {a: ~/b}\n")
    build = load(Build, recipe)
    assert (build.source.images, build.places) == ("/ann/photos", {"a": Path("/ann/b")})
    assert build.free == {"a": "~/b"}
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe.write_text("base: ~/base.yaml\n")
    base.write_text("steps: 7\n")
    assert load(Build, recipe).steps == 7


def test_in_a_file_a_number_for_a_path_says_to_put_quotes_around_it(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("source: {images: 2025}\noutput: 007\ntitle: true\nsteps: x\n")
    with pytest.raises(InputError) as caught:
        load(Build, recipe)
    assert str(caught.value).splitlines() == [
        f"{recipe}:3: title: expected text, found true (put quotes around it)",
        f"{recipe}:2: output: expected a path, found 7 (put quotes around it)",
        f"{recipe}:1: source.images: expected text or a path, found 2025 (put quotes around it)",
        f"{recipe}:4: steps: expected a whole number, found the text 'x'",
    ]
    recipe.write_text("output: photos #2\n")  # in a file this is a comment, as everywhere
    assert load(Build, recipe).output == Path("photos")
    recipe.write_text("output: [2024]\n")
    with pytest.raises(
        InputError, match=r"output: expected a path, found the list \[2024\] \(put quotes around"
    ):
        load(Build, recipe)
    recipe.write_text("output: [2024] trip\n")
    with pytest.raises(
        InputError, match=r"r\.yaml:1: this is not YAML: .*: complete it, or put quotes around"
    ):
        load(Build, recipe)


@pytest.mark.parametrize(("name", "what"), [("train", "trained on"), ("val", "scored")])
def test_shards_that_every_run_needs_cannot_be_null(name: str, what: str):
    files = [CONFIGS / "protocols" / "own.yaml", CONFIGS / "methods" / "supervised.yaml"]
    with pytest.raises(
        InputError, match=f"data: {name} is needed: give the shards of the samples that are {what}"
    ):
        load_run(files, [f"data.{name}=null"])
