"""The front of every script: YAML recipes and `key.path=value` words to settings, all errors at once.

Precedence: default < `base:` < recipe < further recipes < blocks under `when:` < command line.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from semipose.configs import yaml12
from semipose.configs.disk import disk_error
from semipose.configs.errors import InputError
from semipose.configs.explain import Problem, dotted, explain
from semipose.configs.help import help_text, print_help
from semipose.configs.layers import OVERRIDE, Layer, in_force, merge, read_overrides, read_recipes, with_home
from semipose.configs.schema import plain

__all__ = [
    "InputError",
    "Request",
    "command",
    "dump",
    "exit_on_input_error",
    "help_text",
    "load",
    "no_recipe",
    "read_request",
]

T = TypeVar("T")
CONFIGS = Path(__file__).resolve().parent
OTHER_KINDS = {
    frozenset({"images", "annotations"}): "this is an annotation file and no recipe: `semipose init {word} "
    "PHOTOS` writes recipes for it",
    frozenset({"source"}): "this is a recipe for shards: give it to `semipose shards`",
    frozenset({"data", "net"}): "this is a recipe for a run: give it to `semipose train`",
}
"""Keys at the top of files that are no recipe of the command that they are given to, and what these are."""


def load(cls: type[T], recipes: Path | str | Sequence[Path | str] | None, overrides: Sequence[str] = ()) -> T:
    """The settings that recipes and `key.path=value` overrides give.

    Args:
        cls: a class made by `configs.settings.settings`.
        recipes: a YAML file relative to the current directory, or several, in which later ones win; None
            takes the defaults.
        overrides: `a.b.c=value`; the value of a text or a path is taken as it was typed, any other is read
            as YAML. The last of two for one path holds.

    Mappings merge key by key, from the default up; any other value replaces what was below it. Where a
    `name` chooses another plug-in, its other settings start from that one's defaults.

    Raises InputError with a line for every problem found.
    """
    problems: list[str] = []
    names = [recipes] if isinstance(recipes, Path | str) else (recipes or ())
    files = read_recipes([Path(name) for name in names], problems)
    is_readable = not problems
    words = read_overrides(overrides, problems)
    for file in files:
        refuse_other_kind(cls, file)
    if is_readable:
        wrong: list[Problem] = []
        layers = in_force(cls, files, words, wrong)
        settings, unsuitable = _check(cls, layers)
        if settings is not None and not problems and not wrong:
            return settings
        problems += [_line(problem, layers, names) for problem in [*wrong, *unsuitable]]
    raise InputError("\n".join(dict.fromkeys(problems)))


def refuse_other_kind(cls: type[T], file: Layer) -> None:
    """Raise InputError for a file that is meant for another command, by the keys at its top."""
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    for keys, what in OTHER_KINDS.items():
        if keys <= file.tree.keys() and not keys & known:
            raise InputError(f"{file.source}: {what.format(word=shlex.quote(file.source))}")


def dump(settings: Any) -> str:
    """The settings as YAML text, every value written out; the text is itself a recipe."""
    return yaml12.emit(plain(settings))


@dataclass(frozen=True)
class Request:
    """What a command line asks for: recipes, changes to them, and the script's own options.

    `paths` are the words that are no `key.path=value`, whatever they stand for (`RUN_DIR`).
    """

    paths: tuple[Path, ...]
    overrides: tuple[str, ...]
    options: argparse.Namespace
    words: tuple[str, ...] = ()
    """`paths` as they were typed, for addresses such as s3://bucket."""

    @property
    def recipe(self) -> Path | None:
        """The one path of a script that takes one."""
        return self.paths[0] if self.paths else None


def command(
    cls: type[T],
    main: Callable[[T], object],
    *,
    description: str,
    recipes: str | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Run a script that takes `RECIPE [key=value ...]`.

    Args:
        cls: the script's settings.
        main: what to do with them.
        description: what the script does, for `--help`.
        recipes: the folder of its recipes under `configs/` (`"shards"`); None: the recipe may be left out.
        argv: the words after the script's name; None takes the process's own.

    An InputError, from the settings or from `main`, is printed on stderr and exits with code 2; see
    `exit_on_input_error` for what else is.
    """
    with exit_on_input_error():
        path_name = "RECIPE" if recipes else "[RECIPE]"
        request = read_request(cls, description=description, path_name=path_name, recipes=recipes, argv=argv)
        if request.recipe is None and recipes is not None:
            raise InputError(no_recipe(recipes))
        main(load(cls, request.recipe, request.overrides))


def read_request(
    cls: type,
    *,
    description: str,
    path_name: str = "RECIPE",
    recipes: str | Sequence[str] | None = None,
    options: argparse.ArgumentParser | None = None,
    takes_many: bool = False,
    argv: Sequence[str] | None = None,
) -> Request:
    """Sort the words of a command line; print the help and exit when asked to.

    Args:
        cls: the settings that `--help` shows, with a recipe's values where one is given.
        description: what the script does.
        path_name: what the one word that is no `key.path=value` stands for (`RUN_DIR`).
        recipes: the folder under `configs/` whose recipes the help lists, or several.
        options: a parser made with `add_help=False`, holding the script's own options (`--resume`).
        takes_many: whether there may be several such words.
        argv: the words after the script's name; None takes the process's own.

    Raises InputError for unknown options, and for a second path where the script takes one.
    """
    parser = argparse.ArgumentParser(
        usage=f"%(prog)s {path_name} [key.path=value ...]{' [options]' if options else ''}",
        description=description,
        epilog="\n  ".join(["recipes:", *_recipes_under(recipes)]) if recipes else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # which breaks no name of a recipe
        parents=[options] if options else [],
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "-h", "--help", action="store_true", help="print this and the settings; takes a recipe too"
    )
    found, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        raise InputError(f"command line: no option {' '.join(unknown)}; settings are written key.path=value")
    paths = [word for word in found.words if _is_path(word)]
    overrides = tuple(word for word in found.words if not _is_path(word))
    if found.help:
        files = [path for path in paths if not Path(path).is_dir()]
        print_help(cls, parser, load(cls, files, overrides) if files else None)
        raise SystemExit(0)
    if len(paths) > 1 and not takes_many:
        extra = ", ".join(paths[1:])
        raise InputError(f"command line: {extra}: neither key.path=value nor the one {path_name}, {paths[0]}")
    return Request(tuple(map(Path, paths)), overrides, found, tuple(paths))


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """End a command without a traceback where the cause lies outside the program.

    An InputError raised inside is printed on stderr, one line for each problem, and the exit code is 2. An
    OSError (a full disk, a file that is gone) is one such line. Ctrl-C is a line as well, and the exit code
    is 130, as the shell expects.
    """
    try:
        yield
    except InputError as error:
        sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
        raise SystemExit(2) from None
    except OSError as error:
        sys.stderr.write(f"error: {disk_error(error)}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped: the same command goes on from here, or starts again\n")
        raise SystemExit(130) from None


def no_recipe(recipes: str | Sequence[str]) -> str:
    """The sentence for a command line without a recipe: it lists those under `configs/RECIPES`."""
    return f"command line: a recipe is missing; known: {', '.join(_recipes_under(recipes))}"


def _recipes_under(recipes: str | Sequence[str]) -> list[str]:
    """The recipes of each folder as a shell knows them: `configs/methods/{adaptive,triple}.yaml`."""
    folders = [recipes] if isinstance(recipes, str) else recipes
    names: dict[Path, list[str]] = {}
    for file in (file for folder in folders for file in sorted((CONFIGS / folder).rglob("*.yaml"))):
        names.setdefault(file.parent, []).append(file.stem)
    listed = {folder: f"{{{','.join(stems)}}}" if stems[1:] else stems[0] for folder, stems in names.items()}
    known = [os.path.relpath(folder / f"{stems}.yaml") for folder, stems in listed.items()]
    return known or [f"none in configs/{recipes}"]


def _is_path(word: str) -> bool:
    """A word without `=` is a path, and so is one with it if it exists (`runs/lr=0.1`) or is an address."""
    is_address = "://" in word.partition("=")[0]
    return "=" not in word or is_address or (not OVERRIDE.fullmatch(word) and Path(word).exists())


def _check(cls: type[T], layers: list[Layer]) -> tuple[T | None, list[Problem]]:
    tree: Any = {}
    problems: list[Problem] = []
    for layer in layers:
        tree = merge(cls, tree, layer.tree, problems)
    tree = with_home(cls, tree)
    try:
        settings = TypeAdapter(cls).validate_json(json.dumps(tree))
        return (None if problems else settings), problems
    except ValidationError as error:
        told = {problem.path for problem in problems}
        return None, [*problems, *(each for each in explain(cls, tree, error) if each.path not in told)]


def _line(problem: Problem, layers: list[Layer], recipes: Sequence[Path | str]) -> str:
    """`configs/methods/x.yaml:3: a.b: what is wrong`: where the value was last set, else the recipes."""
    path = problem.path[:-1] if problem.is_missing else problem.path
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            line = layer.lines.get(path[:length])
            if line is not None:
                where = f"{layer.source}:{line}" if line else layer.source
                return f"{where}: {dotted(problem.path)}: {problem.message}"
    where = " ".join(map(str, recipes)) or "command line"
    return f"{where}: {dotted(problem.path) or 'settings'}: {problem.message}"
