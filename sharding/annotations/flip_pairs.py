"""Finds the pairs of keypoints that mirror each other, by their names."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

Side = Literal["left", "right"]
Parts = tuple[str, ...]
"""The parts of a name in lower case, without accents; a part that is a side is `left` or `right`."""

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+")
"""`LShoulder` and `l_shoulder` both have the parts l and shoulder."""
_ACCENTS = re.compile(r"(?<=[A-Za-z])[\u0300-\u036f]+")
_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "œ": "oe", "æ": "ae", "ı": "i"})
_OTHER: dict[str, str] = {"left": "right", "right": "left", "l": "r", "r": "l"}

_ENGLISH: dict[str, Side] = {"left": "left", "right": "right", "l": "left", "r": "right"}
_WORDS: tuple[tuple[str, str], ...] = (  # left, right
    ("gauche", "droite droit"),
    ("links linke linker linkes linken linkse", "rechts rechte rechter rechtes rechten rechtse"),
    ("izquierda izquierdo", "derecha derecho"),
    ("sinistra sinistro", "destra destro"),
    ("esquerda esquerdo", "direita direito"),
    ("левый левая левое лев", "правый правая правое прав"),
    ("лівий ліва ліве", "правий права праве"),
    ("lewy lewa lewe", "prawy prawa prawe"),
    ("levý levá levé", "pravý pravá pravé"),
    ("vänster vänstra venstre", "höger högra høyre højre"),
    ("左 左侧 左側 왼 왼쪽 ひだり ヒダリ", "右 右侧 右側 오른 오른쪽 みぎ ミギ"),
)
"""Words for a side in other languages that mean nothing else in names of keypoints."""
_SHORT_WORDS: tuple[tuple[str, str], ...] = (
    ("izq izqda", "der dcha"),
    ("sx", "dx"),
    ("esq", "dir"),
    ("sol", "sağ"),
    ("lt lft", "rt rgt"),
    ("li lks", "re rts"),
    ("bal", "jobb"),
    ("kiri", "kanan"),
    ("vasen", "oikea"),
    ("zuo", "you"),
    ("trái", "phải"),
    ("αριστερό αριστερός αριστερή", "δεξί δεξιό δεξιός δεξιά"),
    ("يسرى اليسرى أيسر الأيسر", "يمنى اليمنى أيمن الأيمن"),
    ("좌 좌측", "우 우측"),
)
"""Words for a side that may also mean something else."""
_SHORTEST_JOINED = 5
"""The least length of a word for a side that begins or ends a longer part (`linkerknie`)."""


class Mirrors(NamedTuple):
    """What follows from the names.

    pairs: index pairs of the names that differ in their side alone. certain: indices of the names that say a
    side in so many words. refused: sentences about names whose partner is missing or not clear, which
    cannot be guessed. lonely: indices of names that seem to have a side, and that nothing mirrors.
    """

    pairs: tuple[tuple[int, int], ...]
    certain: frozenset[int]
    refused: tuple[str, ...]
    lonely: tuple[int, ...]


class _Name(NamedTuple):
    """A name taken apart.

    is_sure: English says a side, set apart from the rest. is_telling: a word of another language does.
    is_numbered: the only side is an l or r before a number, which may be a name of its own (vertebra L1).
    """

    parts: Parts
    is_sure: bool
    is_telling: bool
    is_numbered: bool


def find_mirrors(names: tuple[str, ...]) -> Mirrors:
    """The pairs that follow from the names.

    A side is `left`, `right`, `l` or `r` as a part of its own anywhere in the name (`left_eye`, `eye-right`,
    `hand.R`, `Left Ankle`, `front_left_paw`, `LShoulder`) or a word that begins with `left` or `right`; such
    a name must have its partner. Where a side is less certain, names are paired only if both are there:
    sides of other languages (`oeil_gauche`, `左肩`), an l or r before a number (`L1`, `forelegL1`), and an l
    or r that begins or ends a part (`lknee`, `paw_FL`, `kneeleft`).
    """
    taken = [_take_apart(name) for name in names]
    partner_of: dict[int, int] = {}
    refused: list[str] = []
    for key in (_exact, _loose):  # `LKnee` finds `Rknee` only where nothing fits exactly
        places: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(taken):
            if index not in partner_of:
                places[key(name.parts)].append(index)
        found = {
            index: _partners(index, taken[index], places, key)
            for index in range(len(names))
            if index not in partner_of
        }
        for index, partners in found.items():
            if len(partners) > 1 and taken[index].is_sure:
                both = " and ".join(repr(names[each]) for each in partners)
                refused.append(f"keypoint {names[index]!r} has {both} on the other side")
            elif len(partners) == 1 and found[partners[0]] == [index]:
                partner_of[index] = partners[0]
    alone = [index for index in range(len(names)) if index not in partner_of]
    refused += [
        f"keypoint {names[index]!r} has no partner on the other side"
        for index in alone
        if taken[index].is_sure and not refused
    ]
    some_numbered = any(taken[index].is_numbered for index in partner_of)
    return Mirrors(
        pairs=tuple(sorted((a, b) for a, b in partner_of.items() if a < b)),
        certain=frozenset(i for i, name in enumerate(taken) if name.is_sure or name.is_telling),
        refused=tuple(refused),
        lonely=tuple(
            index
            for index in alone
            if taken[index].is_telling or (taken[index].is_numbered and some_numbered)
        ),
    )


def side_of(name: str) -> Side | None:
    """The side that a name says in so many words; None where it says none, or both."""
    sides = {part for part in _take_apart(name).parts if part in ("left", "right")}
    if len(sides) != 1:
        return None
    return "left" if "left" in sides else "right"


@lru_cache(maxsize=1024)
def side_of_first(first: str, second: str) -> Side | None:
    """The side of the first of two mirrored names; None where the names have no sides.

    Names of a pair first differ where one has the left and the other the right (`oeil_gauche`, `L1`), or the
    l of left and the r of right (`LEye`, `reye`).
    """
    parts = zip(_take_apart(first).parts, _take_apart(second).parts, strict=False)
    differing = next(((a, b) for a, b in parts if a != b), ("", ""))
    if differing not in (("left", "right"), ("right", "left")):
        letters = zip(first.lower(), second.lower(), strict=False)
        differing = next(((a, b) for a, b in letters if a != b), ("", ""))
    if differing in (("left", "right"), ("l", "r")):
        return "left"
    return "right" if differing in (("right", "left"), ("r", "l")) else None


def plain_name(name: str) -> Parts:
    """What stays the same however a name is spelt: `Left Shoulder`, `LShoulder` and `shoulder.L` are one."""
    return tuple(sorted(_take_apart(name).parts))


def joined_name(name: str) -> str:
    """The letters of a name alone: `lknee` and `left_knee` are one, but so are `rear` and `right_ear`."""
    return _loose(_take_apart(name).parts)


def places_of(wanted: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """For each wanted name the place of the same keypoint among the known ones, None if it is not there.

    The spelling does not matter, see `plain_name`; where it leaves several, the same letters decide.
    """
    places: list[int | None] = []
    for name in wanted:
        ways: tuple[Callable[[str], Any], ...] = (str, plain_name, joined_name)
        found = (place for way in ways for place, other in enumerate(known) if way(other) == way(name))
        places.append(next(found, None))
    return places


def _take_apart(name: str) -> _Name:
    words = [part for word in _PART.findall(_without_accents(name)) for part in _split_joined(word.lower())]
    following = [*words, ""][1:]
    is_sure = is_telling = is_numbered = False
    parts = []
    for word, after in zip(words, following, strict=True):
        if word in ("l", "r") and after.isdigit():
            is_numbered = True
        else:
            is_sure |= word in _ENGLISH
            is_telling |= word in _TELLING
        parts.append(_SIDE_OF.get(word, word))
    if {"left", "right"} <= set(parts):  # in the middle, unless another name has them the other way round
        is_sure = is_telling = False
    return _Name(tuple(parts), is_sure, is_telling, is_numbered and not (is_sure or is_telling))


def _without_accents(name: str) -> str:
    """Latin letters without accents; other scripts are left as they are."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFD", name)).translate(_LETTERS)
    return unicodedata.normalize("NFC", plain)


def _words(pairs: Iterable[tuple[str, str]]) -> dict[str, Side]:
    sides: dict[str, Side] = {}
    for left, right in pairs:
        sides |= {_without_accents(word).lower(): "left" for word in left.split()}
        sides |= {_without_accents(word).lower(): "right" for word in right.split()}
    return sides


_TELLING = _words(_WORDS)
_SIDE_OF: dict[str, Side] = _ENGLISH | _TELLING | _words(_SHORT_WORDS)


def _longest_first(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_LONG_WORDS = _longest_first(word for word in _TELLING if word.isascii() and len(word) >= _SHORTEST_JOINED)
_LEADING = re.compile(rf"^(left|right|{_LONG_WORDS})(?=.)")
_TRAILING = re.compile(rf"(?<=.)({_LONG_WORDS})$")
_UNSPACED = re.compile(f"({_longest_first(w for w in _SIDE_OF if not w.isascii() and w[0] > chr(0x2E80))})")
"""Words for a side in scripts without spaces between words: they are recognised anywhere in a name."""


def _split_joined(word: str) -> list[str]:
    """`leftknee`, `linkerknie`, `augelinks` and `前左足` with their sides set apart."""
    if word in _SIDE_OF:
        return [word]
    spaced = _LEADING.sub(r"\g<0> ", word)
    spaced = _TRAILING.sub(r" \g<0>", spaced) if spaced == word else spaced
    return _UNSPACED.sub(r" \g<0> ", spaced).split()


def _partners(
    index: int, name: _Name, places: dict[str, list[int]], key: Callable[[Parts], str]
) -> list[int]:
    """The indices of the names that could be the mirror image."""
    mirrored = {tuple(_OTHER.get(part, part) for part in name.parts)}
    if mirrored == {name.parts}:
        mirrored = _guesses(name.parts)
    return sorted({place for parts in mirrored for place in places.get(key(parts), ()) if place != index})


def _guesses(parts: Parts) -> set[Parts]:
    """Mirror images of a name whose side is not set apart: `lknee`, `paw_FL`, `kneeleft`."""
    guesses: set[Parts] = set()
    for place, part in enumerate(parts):
        swaps = []
        if part[0] in "lr":
            swaps.append(_OTHER[part[0]] + part[1:])
        if part[-1] in "lr":
            swaps.append(part[:-1] + _OTHER[part[-1]])
        for side in ("left", "right"):
            if part.endswith(side):
                swaps.append(part.removesuffix(side) + _OTHER[side])
        guesses |= {(*parts[:place], swap, *parts[place + 1 :]) for swap in swaps}
    return guesses


def _exact(parts: Parts) -> str:
    return " ".join(parts)


def _loose(parts: Parts) -> str:
    """The letters alone, left and right shortened."""
    return "".join(part[0] if part in ("left", "right") else part for part in parts)
