"""What pydantic refused, in plain words: one line for each wrong setting, with the nearest known name."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from semipose.configs.schema import (
    arms,
    describe,
    element_kind,
    field_kind,
    fields,
    is_settings,
    plugins,
    settings_class,
    takes_text,
)

Path = tuple[str | int, ...]

RENAMED = {"method.mixup.places": "layers"}
"""Settings that had another name: the old path, and the new last key."""


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its path, what is wrong, and whether the key itself is absent."""

    path: Path
    message: str
    is_missing: bool = False


@dataclass(frozen=True)
class _Place:
    path: Path
    kind: Any
    value: Any
    owner: type | None


def dotted(path: Path) -> str:
    """`a.b[2].c`, as people write it."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_short(step)}" for step in path)
    return text.removeprefix(".")


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known word is near."""
    match = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def explain(cls: type, tree: Any, error: ValidationError) -> list[Problem]:
    """The problems in `error`, which came of checking the plain values `tree` as `cls`; one per path."""
    problems: dict[Path, Problem] = {}
    too_short: set[Path] = set()
    for detail in error.errors(include_url=False):
        problem = _problem(cls, tree, detail)
        problems.setdefault(problem.path, problem)  # a union reports once for each of its members
        too_short |= {problem.path} if detail["type"] == "too_short" else set()
    # Pydantic counts the right elements of a list alone, so one with a wrong element seems too short as well.
    inside = {path[:length] for path in problems for length in range(len(path))}
    return [problem for path, problem in problems.items() if path not in too_short & inside]


def _problem(cls: type, tree: Any, detail: Any) -> Problem:
    place = _locate(cls, tree, detail["loc"])
    path, sort = place.path, detail["type"]
    if sort == "missing" and place.value is _ABSENT:
        return Problem(path, f"missing: give {describe(place.kind)}", is_missing=True)
    if sort == "unexpected_keyword_argument":
        return Problem(path, _unknown_key(path, place.owner))
    if sort in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_plugin(place)
    if sort == "value_error":
        return Problem(path, str(detail["ctx"]["error"]))
    expected = describe(place.kind)
    if sort.endswith(("pattern_mismatch", "_custom", "json_invalid")):
        return Problem(path, f"{detail['msg']}, found {found(place.value)}")
    return Problem(path, f"expected {expected}, found {found(place.value)}{_hint(place)}")


_ABSENT = object()


def _locate(cls: type, tree: Any, loc: Iterable[str | int]) -> _Place:
    """Follow pydantic's location through types and values, dropping its marks for members of unions."""
    place = _Place((), cls, tree, None)
    for step in loc:
        members = arms(place.kind)
        if len(members) > 1:
            if not plugins(place.kind):
                return place  # a union of plain types is described as a whole
            chosen = settings_class(place.kind, place.value)
            place = _Place(place.path, chosen, place.value, place.owner)
            continue
        if get_origin(members[0]) is tuple and get_args(members[0])[-1] is not Ellipsis:
            is_inside = isinstance(step, int) and isinstance(place.value, list) and step < len(place.value)
            if not is_inside:
                return place  # a list of the wrong length is described as a whole
        place = _step(place, members[0], step)
    return place


def _step(place: _Place, kind: Any, step: str | int) -> _Place:
    owner = kind if is_settings(kind) else None
    if owner is not None:
        field = fields(owner).get(str(step))
        inner = field_kind(field) if field else Any
    else:
        inner = element_kind(kind, step)
    try:
        value = place.value[step]
    except (KeyError, IndexError, TypeError):
        value = _ABSENT
    return _Place((*place.path, step), inner, value, owner)


def _unknown_key(path: Path, owner: type | None) -> str:
    if dotted(path) in RENAMED:
        return f"this setting is now called {RENAMED[dotted(path)]!r}: rename it; its values are the same"
    known = list(fields(owner)) if owner else []
    return f"unknown setting{nearest(str(path[-1]), known) or '; known here: ' + ', '.join(known)}"


def _wrong_plugin(place: _Place) -> Problem:
    known = list(plugins(place.kind))
    path = (*place.path, "name")
    name = place.value.get("name", _ABSENT)
    if name is _ABSENT:
        return Problem(path, f"missing: give one of {', '.join(known)}", is_missing=True)
    return Problem(
        path, f"unknown name {_short(repr(name))}, known: {', '.join(known)}{nearest(str(name), known)}"
    )


def _hint(place: _Place) -> str:
    value = place.value
    members = arms(place.kind)
    if isinstance(value, float) and not math.isfinite(value):
        return " (it must be finite)"
    if isinstance(value, float) and int in members and value.is_integer():
        return f" (write {int(value)})"
    if isinstance(value, str) and (int in members or float in members) and _is_number(value.replace("_", "")):
        number = value.replace("_", "")
        if not math.isfinite(float(number)):
            return " (the number must be finite)"
        return f" (write {number}, without quotes and underscores)"
    if isinstance(value, bool | int | float | list) and takes_text(place.kind):
        return " (put quotes around it)"
    if isinstance(value, str):
        return nearest(value, [c for m in members for c in get_args(m) if isinstance(c, str)])
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def found(value: Any) -> str:
    """A value as the reader of an error should see it: short, and its kind told apart."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {_short(value)!r}"
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list():
            return f"the list {_short(str(value))}"
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
