"""Which keypoints are each other's mirror image, told from their names."""

import re
from collections import defaultdict

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+")
"""The parts of a name: `LShoulder` and `l_shoulder` are both (l, shoulder)."""
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
_LONG = {"l": "left", "r": "right"}
_SHORT = {"left": "l", "right": "r"}
_JOINED = re.compile(r"^(left|right)(?=.)")
_AT_END = re.compile(r"(?<=.)(left|right)$")
_Parts = tuple[str, ...]


def mirror_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Index pairs of the names that differ in their side alone.

    A side is `left`, `right`, `l` or `r` as a part of its own anywhere in the name (`left_eye`, `eye-right`,
    `hand.R`, `Left Ankle`, `front_left_paw`, `LShoulder`) or a word that begins with `left` or `right`; such
    a name must have its partner. Names like `lknee`, `kneeleft` and `L1`, where the letters may mean
    something else, are paired only if both are there.
    Raises ValueError for a name without its partner, or with two.
    """
    parts = [_parts(name) for name in names]
    sure = [_is_sided(each) for each in parts]
    places: dict[str, list[int]] = defaultdict(list)
    for index, each in enumerate(parts):
        places[_exact(each)].append(index)
        places[_loose(each)].append(index)
    pairs = set()
    for index, name in enumerate(names):
        partners = _partners(parts[index], sure[index], places)
        if sure[index] and not partners:
            raise ValueError(f"keypoint {name!r} has no partner on the other side")
        if len(partners) > 1:
            both = " and ".join(repr(names[each]) for each in partners)
            raise ValueError(f"keypoint {name!r} has {both} on the other side")
        pairs |= {(min(index, each), max(index, each)) for each in partners}
    return tuple(sorted(pairs))


def _partners(parts: _Parts, is_sure: bool, places: dict[str, list[int]]) -> list[int]:
    """The places of the names that could be the mirror image."""
    mirrored = {tuple(_SIDES.get(part, part) for part in parts)} if is_sure else _guesses(parts)
    exact = [place for each in sorted(mirrored) for place in places.get(_exact(each), [])]
    return exact if exact or not is_sure else places.get(_loose(next(iter(mirrored))), [])


def _guesses(parts: _Parts) -> set[_Parts]:
    """Mirror images of a name whose side is not set apart: `lknee`, `kneeleft`."""
    guesses: set[_Parts] = set()
    if parts and parts[0][0] in _LONG:
        guesses.add((_SIDES[parts[0][0]] + parts[0][1:], *parts[1:]))
    if parts and (side := _AT_END.search(parts[-1])):
        guesses.add((*parts[:-1], parts[-1][: side.start()] + _SIDES[side[0]]))
    return guesses


def _parts(name: str) -> _Parts:
    """The parts of a name in lower case; `left` and `right` before a word stand alone."""
    words = (word.lower() for word in _PART.findall(name))
    return tuple(part for word in words for part in _JOINED.sub(r"\g<0> ", word).split())


def _is_sided(parts: _Parts) -> bool:
    """Whether a part is certainly a side: `l` before a number may be a name of its own (vertebra L1)."""
    following = (*parts[1:], "")
    return any(
        part in _SIDES and not (part in _LONG and after.isdigit())
        for part, after in zip(parts, following, strict=True)
    )


def _exact(parts: _Parts) -> str:
    """The parts with l and r spelt out, so that `LEye` finds `right_eye`."""
    return " ".join(_LONG.get(part, part) for part in parts)


def _loose(parts: _Parts) -> str:
    """The letters alone, left and right shortened, so that `LKnee` finds `Rknee`."""
    return "~" + "".join(_SHORT.get(part, part) for part in parts)
