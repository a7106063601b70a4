"""The tree of settings that `--help` prints: name, kind, value, meaning; every plug-in by its name."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from semipose.configs import schema

_NONE = object()  # no value given; None is a value


def help_text(cls: type, settings: Any = None, *, width: int = 110) -> str:
    """The tree as plain text; with `settings` (of class `cls`) it shows their values and plug-ins."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(settings_tree(cls, settings))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def print_help(cls: type, parser: argparse.ArgumentParser, settings: Any) -> None:
    """Print how a script is called, then its tree of settings, in colour on a terminal."""
    parser.print_help()
    sys.stdout.write("\n")
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(settings_tree(cls, settings))


def settings_tree(cls: type, settings: Any = None) -> Tree:
    """The tree for rich; `settings` as in `help_text`."""
    title = "settings (* differs from the default)" if settings is not None else "settings and their defaults"
    tree = Tree(Text(title, style="bold"), guide_style="dim")
    _add_fields(tree, cls, {}, _NONE if settings is None else schema.plain(settings))
    return tree


def _add_fields(tree: Tree, cls: type, defaults: dict[str, Any], values: Any) -> None:
    """Branches for the fields of `cls`.

    defaults: what the default of the field above says about them; `cls` says the rest.
    values: the mapping of what is set, `_NONE` to show the defaults and every plug-in.
    """
    for name, field in schema.fields(cls).items():
        if name == "name" and get_origin(field.annotation) is Literal:
            continue  # what chose this class
        default = defaults[name] if name in defaults else _own_default(field)
        value = values[name] if isinstance(values, dict) else _NONE
        branch = tree.add(_label(name, field, default, value))
        is_element = not schema.holds_settings(field.annotation)  # of a list, or of a mapping by free keys
        for plugin, inner in _inner_classes(field):
            if value is not _NONE and (is_element or not _is_of(value, inner, field)):
                continue
            twig = branch.add(Text(f"name: {plugin}", style="green")) if plugin else branch
            _add_fields(
                twig, inner, default if not is_element and _is_of(default, inner, field) else {}, value
            )


def _own_default(field: FieldInfo) -> Any:
    return _NONE if field.is_required() else schema.default_of(field)


def _is_of(value: Any, cls: type, field: FieldInfo) -> bool:
    """Whether a plain value is a mapping of the settings of `cls`, one of those that the field can hold."""
    return isinstance(value, dict) and schema.settings_class(field.annotation, value) is cls


def _inner_classes(field: FieldInfo) -> Iterator[tuple[str, type]]:
    """The classes of settings under a field, each with its plug-in name ("" where it is no plug-in)."""
    kinds = [field.annotation]
    kinds += [schema.element_kind(arm, step) for arm in schema.arms(field.annotation) for step in (0, "key")]
    for kind in kinds:
        names = schema.plugin_classes(kind)
        yield from ((name, cls) for cls, name in names.items())
        if not names:
            yield from (("", arm) for arm in schema.arms(kind) if schema.is_settings(arm))


def _label(name: str, field: FieldInfo, default: Any, value: Any) -> Text:
    label = Text(name, style="cyan")
    shown = default if value is _NONE else value
    is_branch = isinstance(shown, dict) and schema.holds_settings(field.annotation)
    by_name = schema.plugins(field.annotation)
    if by_name or not is_branch:
        label.append(f": {schema.describe(schema.field_kind(field))}", style="dim")
    if shown is _NONE:
        label.append(" (must be given)", style="bold red")
    elif not is_branch:
        label.append(f" = {json.dumps(shown, ensure_ascii=False)}", style="bold")
    elif by_name:
        label.append(f" = {shown['name']}", style="bold")
    is_changed = value is not _NONE and value != default
    if is_changed and (by_name or not is_branch):
        label.append(" *", style="bold yellow")
    if field.description:
        label.append(f"  {' '.join(field.description.split())}", style="default")
    return label
