"""YAML 1.2 scalars, refusals with their line, and writing that reads back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semipose.configs import yaml12
from semipose.configs.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-1.", -1.0),
        ("-.inf", float("-inf")),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("-3", -3),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'1'", "1"),
        # text in YAML 1.2, something else in 1.1
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("none", "none"),
        ("0b1", "0b1"),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    read = yaml12.parse(f"key: {text}\n", "f").value["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 2, c: 3}", "f:2: the key 'c' is given twice"),
        ("a: 1\na: 2", "f:2: the key 'a' is given twice"),
        ("a: 1\n3: 2", "f:2: a key must be text"),
        ("? [1]\n: 2", "f:1: a key must be text"),
        ("a: 1\nb: [2", "f:2: this is not YAML: "),
        ("a: b: c", "f:1: this is not YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "f:2: this is not YAML: expected a single document"),
        ("a: \0", "f: this is not YAML: special characters are not allowed"),
        ("a: 1\nb: !!python/object:os.system x", "f:2: the tag tag:yaml.org,2002:python/object:os.system"),
        ("a: !!int x", "f:1: 'x' cannot be read as int"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ('a: "\\ud800"', "cannot be read as str"),
        ("[" * 1500, "f: nested too deeply"),
        ("a: 1\nb: &x [*x]", "f:2: this is nested within itself"),
        ("a: &x {b: {c: *x}}", "f:1: this is nested within itself"),
    ],
    ids=range(15),
)
def test_refusals_name_the_line(text, message):
    with pytest.raises(InputError) as caught:
        yaml12.parse(text, "f")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_lines_of_nested_values_are_known():
    document = yaml12.parse("a:\n  b:\n    - 1\n    - c: 2\n", "f")
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4,
    }


TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
LEAVES |= st.sampled_from(["no", "1e-3", "~", "null", "0x1", "1_000", ".inf", "", " a", "a: b", "<<", "#"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_reads_back(value):
    assert yaml12.parse(yaml12.emit(value), "f").value == value


def test_people_can_read_what_is_written():
    written = yaml12.emit({"size": [256, 192], "lr": 1e-5, "name": "été", "rate": "no", "at": [], "x": None})
    assert written == 'size: [256, 192]\nlr: 1.0e-05\nname: été\nrate: "no"\nat: []\nx: null\n'
