"""YAML by the 1.2 core schema on top of PyYAML: `1e-3` is a number, `no` is text, no key comes twice.

PyYAML alone follows YAML 1.1, where `1e-3` is text and `no` is false.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from semipose.configs.errors import InputError

Path = tuple[str | int, ...]  # keys and list indices from the root of a document
MAX_SAID = 200  # characters of the text in an error

_SYNTAX_ERRORS = (yaml.scanner.ScannerError, yaml.parser.ParserError)
_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (  # tag, pattern, characters that such a value can begin with; YAML 1.2.2, section 10.3.2
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (PyYAML's signature)
        return True


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    is_flat = not any(isinstance(value, list | dict) for value in values)
    return dumper.represent_sequence(_TAG + "seq", values, flow_style=is_flat)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Line ends beyond ASCII are lost in plain text, and YAML 1.1 readers take a plain `no` for false.
    is_odd = any(char in text for char in "\x85\u2028\u2029\ufeff")
    style = '"' if is_odd or text.lower() in ("yes", "no", "on", "off") else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)


def _to_text(text: str) -> str:
    # JSON escapes a sign beyond 16 bits as two surrogates; a lone one is no text and raises a ValueError.
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def _to_int(text: str) -> int:
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text if base == 10 else text[2:], base)


def _to_float(text: str) -> float:
    return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _to_int,
    "float": _to_float,
    "str": _to_text,
}


@dataclass
class Document:
    """The value of one YAML text, and the line (from 1) on which each of its parts stands."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)


def parse(text: str, source: str, *, has_lines: bool = True) -> Document:
    """The plain value of a YAML text (dicts with text keys, lists, text, numbers, booleans, None).

    Raises InputError, naming `source` and (if it `has_lines`) the line, for what is no YAML, a key given
    twice, a key that is not text, a tag of another language, what is nested too deeply or within itself.
    An empty text is None.
    """
    document = Document()
    try:
        node = _Loader(text).get_single_node()
        if node is not None:
            document.value = _Builder(source, document.lines, has_lines=has_lines).build(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark and has_lines else source
        said = ", ".join(
            filter(None, (getattr(error, part, None) for part in ("context", "problem", "reason")))
        )
        cure = (
            ": complete it, or put quotes around a text that holds such signs"
            if isinstance(error, _SYNTAX_ERRORS)
            else ""
        )
        raise InputError(f"{where}: this is not YAML: {said[:MAX_SAID]}{cure}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    return document


def comment(text: str) -> str:
    """The first part of a YAML text that is a comment, from its `#` on; "" where there is none."""
    end = 0
    for token in yaml.scan(text, Loader=_Loader):
        between = text[end : token.start_mark.index]
        if "#" in between:
            return between[between.index("#") :].rstrip()
        end = max(end, token.end_mark.index)
    return ""


def emit(value: Any) -> str:
    """`value` as YAML text that `parse` reads back to the same value; key order is kept."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Builder:
    """Turns PyYAML's nodes into plain values, and notes their lines."""

    def __init__(self, source: str, lines: dict[Path, int], *, has_lines: bool) -> None:
        self.source, self.lines, self.has_lines = source, lines, has_lines
        self.open: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)  # a mapping's key has noted its line already
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.build(child, (*path, i)) for i, child in enumerate(self._children(node))]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            return self._scalar(node, kind)
        raise self._error(node, f"the tag {node.tag[:MAX_SAID]} is not known here, take it away")

    def _children(self, node: yaml.CollectionNode) -> Iterator[Any]:
        """What is within a node; an alias of a node within itself would never end."""
        if node in self.open:
            raise self._error(node, "this is nested within itself: write its values out")
        self.open.append(node)
        yield from node.value
        self.open.pop()

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        try:
            return _SCALARS[kind](node.value)
        except (ValueError, KeyError):
            raise self._error(node, f"{node.value[:40]!r} cannot be read as {kind}") from None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in self._children(node):
            key = self.build(key_node, (*path, "?")) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                problem = "a key must be text; put quotes around a number or a word like true"
                raise self._error(key_node, problem)
            self.lines.pop((*path, "?"), None)
            if key in values:
                raise self._error(key_node, f"the key {key[:MAX_SAID]!r} is given twice")
            here = (*path, key)
            self.lines[here] = key_node.start_mark.line + 1
            values[key] = self.build(value_node, here)
        return values

    def _error(self, node: yaml.Node, problem: str) -> InputError:
        where = f"{self.source}:{node.start_mark.line + 1}" if self.has_lines else self.source
        return InputError(f"{where}: {problem}")
