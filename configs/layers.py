"""What recipes, their bases and the command line set, layer by layer, and how a layer lies over another."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

from semipose.configs import yaml12
from semipose.configs.errors import InputError
from semipose.configs.explain import Path as KeyPath
from semipose.configs.explain import Problem, found
from semipose.configs.schema import (
    arms,
    default_of,
    element_kind,
    fields,
    holds_settings,
    plugins,
    settings_class,
    takes_beside_text,
    takes_text,
)

OVERRIDE = re.compile(r"(?P<path>[A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|\d+))*)=(?P<value>.*)", re.DOTALL)

OLD_RUN = re.compile(r"(?P<configs>.*configs)/run/(?P<protocol>[^/]+)/(?P<method>[^/]+)\.yaml")
OLD_BEST = re.compile(r"best-(?P<protocol>.+)")
OLD_METHOD = re.compile(r"(?P<configs>.*configs)/base/methods/(?P<method>[^/]+)\.yaml")

MAX_BASES_DEEP = 40
MAX_PATH, MAX_PART = 4096, 255  # bytes in a path, and in one part of it


class Elements(dict[int, Any]):
    """Values for some elements of the list below, by index; only the command line makes one."""


@dataclass(frozen=True)
class Typed:
    """A value of the command line: `text` as it was typed, and `value`, what it is as YAML.

    `fault` says why it is no YAML, or what of it YAML would drop; "" where it is sound.
    """

    text: str
    value: Any = None
    fault: str = ""

    def read(self, kind: Any, lower: Any, problems: list[Problem], place: KeyPath) -> Any:
        """The plain value for a setting of type `kind`: as typed where it is text or a path, else YAML.

        Quotes around the whole value, and what is not text in a union of types (null, a list), stay YAML.
        `lower`, the value below, stays where this one is added to `problems`.
        """
        if not takes_text(kind):
            if self.fault:
                problems.append(Problem(place, self.fault))
            return lower if self.fault else self.value
        is_quoted = self.text[:1] in ("'", '"') and isinstance(self.value, str)
        if not self.text or (not self.fault and (is_quoted or takes_beside_text(kind, self.value))):
            return self.value
        if any("\ud800" <= letter <= "\udfff" for letter in self.text):  # bytes that are not UTF-8
            problems.append(Problem(place, "this is not UTF-8: give a text or a file name that is"))
            return lower
        return self.text


@dataclass(frozen=True)
class Condition:
    """Holds where the text of `setting` (a path of keys) is one of `patterns` (`drawn-*`)."""

    setting: tuple[str, ...]
    patterns: tuple[str, ...]

    def holds(self, tree: Any) -> bool:
        """Whether the condition holds in a tree of plain values."""
        for key in self.setting:
            tree = tree.get(key) if isinstance(tree, dict) else None
        return isinstance(tree, str) and any(fnmatchcase(tree, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Layer:
    """What one file, or the command line, sets; `lines` says on which line of the file (0: not in a file).

    when: the condition of a block under `when:`; None for all others, which always count.
    """

    source: str
    tree: dict[str, Any]
    lines: dict[yaml12.Path, int] = field(default_factory=dict)
    when: Condition | None = None


def merge(kind: Any, lower: Any, upper: Any, problems: list[Problem], place: KeyPath = ()) -> Any:
    """`upper` laid over `lower`, both plain values for the type `kind`.

    A mapping of settings in `upper` that has nothing (or null) below it is laid over its field's default, so
    that changing one value of `views: AffinePolicy = PUBLISHED_WEAK` keeps the others. The default of a free
    mapping (`dict[str, float]`) is replaced, as only then can a recipe take a key of it away. A list
    replaces, except for `Elements`; those that do not fit the list below are added to `problems`, `place`
    being where `upper` stands. `Typed` values become plain ones by their type.
    """
    if isinstance(upper, Typed):
        upper = upper.read(kind, lower, problems, place)
    if isinstance(upper, Elements):
        return _merge_elements(kind, lower, upper, problems, place)
    if isinstance(upper, list):
        return [
            merge(element_kind(kind, i), None, value, problems, (*place, i)) for i, value in enumerate(upper)
        ]
    if not isinstance(upper, dict):
        return upper
    merged = dict(lower) if isinstance(lower, dict) else {}
    cls = settings_class(kind, {key: _plain(value) for key, value in {**merged, **upper}.items()})
    if plugins(kind) and "name" in merged and cls is not settings_class(kind, merged):
        merged = {}  # what was set for another plug-in says nothing about this one
    for key, value in upper.items():
        setting = fields(cls).get(key) if cls else None
        inner = setting.annotation if setting else element_kind(kind, key)
        is_laid_over = isinstance(value, Elements) or holds_settings(inner)
        if setting is not None and is_laid_over and merged.get(key) is None:
            merged[key] = default_of(setting)
        merged[key] = merge(inner, merged.get(key), value, problems, (*place, key))
    return merged


def _merge_elements(
    kind: Any, lower: Any, upper: Elements, problems: list[Problem], place: KeyPath
) -> list[Any] | None:
    if kind is Any:
        # A key above is unknown, which is said there.
        return [merge(Any, None, value, problems, (*place, i)) for i, value in upper.items()]
    if not isinstance(lower, list):
        problems.append(Problem(place, f"an index needs a list below it, found {found(lower)}"))
        return lower
    merged = list(lower)
    for i, value in upper.items():
        if i < len(lower):
            merged[i] = merge(element_kind(kind, i), lower[i], value, problems, (*place, i))
        else:
            elements = "element" if len(lower) == 1 else "elements"
            problems.append(
                Problem((*place, i), f"there is no element {i}: the list has {len(lower)} {elements}")
            )
    return merged


def read_recipes(files: Sequence[Path], problems: list[str]) -> list[Layer]:
    """The layers of several recipes, each after its bases and over those before it.

    What cannot be read is added to `problems`.
    """
    known: dict[Path, list[Layer]] = {}
    return _stacked([_read(file, (), known, problems) for file in files])


def _stacked(recipes: Sequence[list[Layer]]) -> list[Layer]:
    """The layers of several files in order; where two of them name the same base, its later place counts."""
    layers: dict[tuple[str, Condition | None], Layer] = {}
    for layer in (layer for recipe in recipes for layer in recipe):
        layers.pop((layer.source, layer.when), None)
        layers[layer.source, layer.when] = layer
    return list(layers.values())


def in_force(kind: Any, files: list[Layer], words: list[Layer], problems: list[Problem]) -> list[Layer]:
    """The layers that count, lowest first: files, then their blocks under `when:` that hold, then words.

    A condition looks at all files and words, but not at other blocks. A setting that `kind` does not have is
    added to `problems`.
    """
    plain = [layer for layer in files if layer.when is None]
    tree: Any = {}
    for layer in (*plain, *words):
        tree = merge(kind, tree, layer.tree, [])
    blocks = [(layer, layer.when) for layer in files if layer.when is not None]
    for _, condition in blocks:
        if condition.setting[0] not in fields(kind):
            name = ".".join(condition.setting)
            problems.append(Problem(("when", name), "there is no such setting"))
    return [*plain, *(block for block, condition in blocks if condition.holds(tree)), *words]


def _read(
    file: Path, parents: tuple[Path, ...], known: dict[Path, list[Layer]], problems: list[str]
) -> list[Layer]:
    """The layers of one file, a base of the files `parents`; each file is read once and kept in `known`."""
    here = file.resolve()
    if here in known:
        return known[here]
    known[here] = []
    try:
        document = yaml12.parse(_read_text(file), str(file))
        if document.value is None:
            document.value = {}
        if not isinstance(document.value, dict):
            this = found(document.value)
            raise InputError(f"{file}: a recipe must be `key: value` lines, this is {this}")
        bases, blocks = _bases(document, file), _blocks(document, file)
    except InputError as error:
        problems.append(str(error))
        return []
    lower: list[list[Layer]] = []
    chain = (*parents, here)
    for base in bases:
        where = f"{file}:{document.lines[('base',)]}: base"
        if base.resolve() in chain:
            problems.append(f"{where}: {base} leads back to itself; take this `base:` away")
        elif not base.is_file():
            problems.append(f"{where}: {no_such_file(base)}")
        elif len(chain) > MAX_BASES_DEEP:
            problems.append(f"{where}: the files name each other more than {MAX_BASES_DEEP} deep: merge some")
        else:
            lower.append(_read(base, chain, known, problems))
    tree = {key: value for key, value in document.value.items() if key not in ("base", "when")}
    known[here] = [*_stacked(lower), Layer(str(file), tree, document.lines), *blocks]
    return known[here]


def _blocks(document: yaml12.Document, file: Path) -> list[Layer]:
    """The layers under `when:`, which is {setting: {patterns, with spaces between: what is then set}}."""
    layers = []
    when = document.value.get("when", {})
    for setting, choices in when.items() if isinstance(when, dict) else [("", when)]:
        for patterns, tree in choices.items() if isinstance(choices, dict) else [("", choices)]:
            path = ("when", setting, patterns)
            if not isinstance(tree, dict):
                line = document.lines.get(path[:2], document.lines[("when",)])
                raise InputError(
                    f"{file}:{line}: when: expected `setting: {{value: {{key: value}}}}`, found {found(tree)}"
                )
            lines = {at[3:]: line for at, line in document.lines.items() if at[:3] == path and at[3:]}
            condition = Condition(tuple(setting.split(".")), tuple(patterns.split()))
            layers.append(Layer(str(file), tree, lines, condition))
    return layers


def _bases(document: yaml12.Document, file: Path) -> list[Path]:
    """The files that `base:` names, relative to the recipe's own folder."""
    base = document.value.get("base", [])
    names = [base] if isinstance(base, str) else base
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _can_be_a_file(name) for name in names
    ):
        line = document.lines[("base",)]
        raise InputError(f"{file}:{line}: base: expected a path or a list of paths, found {found(base)}")
    return [Path(os.path.normpath(file.parent / os.path.expanduser(name))) for name in names]


def _can_be_a_file(name: str) -> bool:
    """Whether a name is one that a file can have: not empty, not too long, no NUL in it."""
    parts = name.encode(errors="surrogateescape").split(b"/")
    return 0 < len(name) < MAX_PATH and max(map(len, parts)) <= MAX_PART and "\0" not in name


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(no_such_file(file)) from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: this is not a text file in UTF-8") from None


def no_such_file(file: Path) -> str:
    """The sentence for an absent recipe, with the nearest name or the new form of an old one beside it."""
    if now := _new_form(file.as_posix()):
        return f"{file}: a run takes a protocol and a method now: give {now} instead"
    if not file.parent.is_dir():
        return f"{file}: no such file (there is no folder {file.parent})"
    known = {entry.stem: entry for entry in sorted(file.parent.iterdir()) if entry.suffix == ".yaml"}
    match = get_close_matches(file.stem, known, n=1)
    return f"{file}: no such file" + (f" (did you mean {known[match[0]]}?)" if match else "")


def _new_form(file: str) -> str:
    """What is given now instead of a recipe of version 0.1, which had a file for each pair; or nothing."""
    if old := OLD_METHOD.fullmatch(file):
        return f"{old['configs']}/methods/{old['method']}.yaml"
    if not (old := OLD_RUN.fullmatch(file)):
        return ""
    protocol, method = old["protocol"], old["method"]
    if best := OLD_BEST.fullmatch(method):
        protocol, method = best["protocol"], "best"
    return f"{old['configs']}/protocols/{protocol}.yaml {old['configs']}/methods/{method}.yaml"


def read_overrides(words: Sequence[str], problems: list[str]) -> list[Layer]:
    """The layers of `a.b.c=value` words; what is wrong with them is added to `problems`.

    Words that reach into a list (`a.0.b=value`) lie over all others, wherever they stand.
    """
    whole, inside = Layer("command line", {}), Layer("command line", {})
    for word in words:
        match = OVERRIDE.fullmatch(word)
        if match is None:
            problems.append(f"command line: {word!r} is not of the form key.path=value")
            continue
        path = tuple(int(step) if step.isdecimal() else step for step in match["path"].split("."))
        _set(inside if any(isinstance(step, int) for step in path) else whole, path, match["value"])
    return [whole, inside]


def _set(layer: Layer, path: KeyPath, text: str) -> None:
    node: dict[Any, Any] = layer.tree
    for key, after in pairwise(path):
        container = Elements if isinstance(after, int) else dict
        below = _plain(node.get(key))
        node[key] = below if type(below) is container else container()
        node = node[key]
    typed, lines = _read_typed(text)
    below, value = _plain(node.get(path[-1])), _plain(typed)
    is_merged = type(below) is dict and isinstance(value, dict)
    node[path[-1]] = {**below, **value} if is_merged else typed
    layer.lines.update({(*path, *inner): 0 for inner in lines})  # 0: a command line has no lines
    layer.lines.update({path[:length]: 0 for length in range(1, len(path) + 1)})


def _read_typed(text: str) -> tuple[Typed, dict[yaml12.Path, int]]:
    try:
        document = yaml12.parse(text, "", has_lines=False)
    except InputError as error:
        return Typed(text, fault=str(error).removeprefix(": ")), {}
    dropped = yaml12.comment(text)
    cure = "leave it out, or put quotes around a text that it is a part of"
    fault = f"{dropped!r} is a comment here, which would be dropped: {cure}" if dropped else ""
    return Typed(text, document.value, fault), document.lines


def _plain(value: Any) -> Any:
    """The value, read as YAML where it was typed and can be."""
    return value.value if isinstance(value, Typed) and not value.fault else value


def with_home(kind: Any, value: Any) -> Any:
    """A plain value for the type `kind` in which `~/` at the start of a text is the home folder.

    In a path, which no other text can be, `~` and `~USER` are home folders too.
    """
    if isinstance(value, dict):
        cls = settings_class(kind, value)
        known = fields(cls) if cls else {}
        kinds = {key: known[key].annotation if key in known else element_kind(kind, key) for key in value}
        return {key: with_home(kinds[key], inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_home(element_kind(kind, i), inner) for i, inner in enumerate(value)]
    is_home = (
        isinstance(value, str) and takes_text(kind) and value.startswith("~" if Path in arms(kind) else "~/")
    )
    return os.path.expanduser(value) if is_home else value
