"""The front of the scripts: words in, settings to `main`, errors on stderr with exit code 2."""

import argparse
import errno
import shlex
from pathlib import Path

import pytest

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import (
    InputError,
    Request,
    command,
    exit_on_input_error,
    load,
    no_recipe,
    read_request,
)
from semipose.configs.settings import settings


@settings
class Run:
    steps: int = 10
    """Optimiser steps."""
    folder: str = "runs"


def call(*argv: str, recipes: str | None = "run", main=None) -> list[Run]:
    got: list[Run] = []
    command(Run, main or got.append, description="Trains.", recipes=recipes, argv=argv)
    return got


def write(folder: Path, text: str) -> str:
    (folder / "r.yaml").write_text(text)
    return str(folder / "r.yaml")


def test_recipe_and_overrides_reach_main_in_any_order(tmp_path):
    recipe = write(tmp_path, "folder: a\n")
    assert call(recipe, "steps=3") == call("steps=3", recipe) == [Run(steps=3, folder="a")]


def test_a_script_without_recipes_takes_defaults_and_overrides():
    assert call(recipes=None) == [Run()]
    assert call("steps=1", recipes=None) == [Run(steps=1)]


def test_errors_go_to_stderr_one_a_line_with_code_2(tmp_path, capsys):
    recipe = write(tmp_path, "stps: 3\nfolder: 3\n")
    with pytest.raises(SystemExit) as left:
        call(recipe)
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    assert sorted(err.splitlines()) == [
        f"error: {recipe}:1: stps: unknown setting (did you mean 'steps'?)",
        f"error: {recipe}:2: folder: expected text, found 3 (put quotes around it)",
    ]


def test_an_input_error_of_main_is_no_traceback(tmp_path, capsys):
    def main(run: Run) -> None:
        raise InputError(f"{run.folder}: is not there")

    with pytest.raises(SystemExit) as left:
        call(write(tmp_path, ""), main=main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: runs: is not there\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "a file: it cannot be read or written (No space left on device): make room on that disk",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "runs/a/scores.json.123.tmp"),
            "runs/a/scores.json: it cannot be read or written (Not a directory): remove the file that stands "
            "where a folder should be, or choose another folder",
        ),
        (OSError("odd"), "a file: it cannot be read or written (odd): correct that"),
    ],
)
def test_a_disk_that_fails_is_one_sentence_and_code_2(error, said, capsys):
    with pytest.raises(SystemExit) as left, exit_on_input_error():
        raise error
    assert (left.value.code, capsys.readouterr().err) == (2, f"error: {said}\n")


def test_a_folder_that_cannot_be_written_is_named_with_the_file():
    with pytest.raises(InputError) as caught, named_disk_errors(Path("runs/a"), then="go on"):
        raise OSError(errno.EIO, "Input/output error", "runs/a/card.json.9.tmp", None, "runs/a/card.json")
    assert str(caught.value) == (
        "runs/a: it cannot be written (Input/output error: runs/a/card.json): check that disk, or choose a "
        "folder on another one, then go on"
    )


def test_ctrl_c_is_a_line_and_code_130(capsys):
    with pytest.raises(SystemExit) as left, exit_on_input_error():
        raise KeyboardInterrupt
    assert left.value.code == 130
    assert capsys.readouterr().err.splitlines() == [
        "stopped: the same command goes on from here, or starts again"
    ]


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), exit_on_input_error():
        _ = 1 / 0


def test_a_missing_recipe_lists_the_known_ones(tmp_path, monkeypatch, capsys):
    (tmp_path / "run" / "coco").mkdir(parents=True)
    (tmp_path / "run" / "coco" / "single.yaml").touch()
    (tmp_path / "run" / "demo.yaml").touch()
    monkeypatch.setattr("semipose.configs.load.CONFIGS", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        call("steps=3")
    line = "command line: a recipe is missing; known: run/coco/single.yaml, run/demo.yaml"
    assert (left.value.code, capsys.readouterr().err) == (2, f"error: {line}\n")
    assert no_recipe("run") == line
    (tmp_path / "run" / "coco" / "dual.yaml").touch()
    assert no_recipe("run").endswith("known: run/coco/{dual,single}.yaml, run/demo.yaml")
    assert no_recipe("shards") == "command line: a recipe is missing; known: none in configs/shards"


def test_the_help_breaks_no_name_of_a_recipe(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    long = "a-name-of-many-words-" * 8
    (tmp_path / "run" / f"{long}.yaml").touch()
    monkeypatch.setattr("semipose.configs.load.CONFIGS", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        call("--help")
    assert f"  run/{long}.yaml\n" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--steps=3", "--stepz", "-x"])
def test_options_that_are_not_there_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as left:
        call(write(tmp_path, ""), option)
    expected = f"error: command line: no option {option}; settings are written key.path=value\n"
    assert (left.value.code, capsys.readouterr().err) == (2, expected)


def test_a_second_path_is_refused(tmp_path, capsys):
    recipe = write(tmp_path, "")
    with pytest.raises(SystemExit):
        call(recipe, "steps", "3")
    assert f"steps, 3: neither key.path=value nor the one RECIPE, {recipe}" in capsys.readouterr().err


def test_a_script_may_take_several_paths(tmp_path):
    request = read_request(Run, description="", takes_many=True, argv=["a", "steps=1", str(tmp_path / "b=1")])
    assert (request.paths, request.overrides) == ((Path("a"),), ("steps=1", str(tmp_path / "b=1")))
    (tmp_path / "b=1").mkdir()
    request = read_request(Run, description="", takes_many=True, argv=["a", str(tmp_path / "b=1"), "steps=1"])
    assert (request.paths, request.overrides) == ((Path("a"), tmp_path / "b=1"), ("steps=1",))


def test_help_shows_the_settings_and_leaves(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        call("--help")
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert "RECIPE [key.path=value ...]" in out
    assert "steps: a whole number = 10  Optimiser steps." in out
    with pytest.raises(SystemExit):
        call(write(tmp_path, "steps: 7"), "-h")
    assert "steps: a whole number = 7 *  Optimiser steps." in capsys.readouterr().out


def test_help_of_a_wrong_recipe_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        call(write(tmp_path, "stps: 7"), "--help")
    assert left.value.code == 2
    assert "stps: unknown setting" in capsys.readouterr().err


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--resume", metavar="RUN_DIR", type=Path, help="go on with a run")
    return parser


def test_a_script_may_have_options_of_its_own():
    request = read_request(Run, description="", options=options(), argv=["--resume", "runs/a", "steps=3"])
    assert (request.recipe, request.overrides) == (None, ("steps=3",))
    assert request.options.resume == Path("runs/a")
    between = read_request(
        Run, description="", options=options(), argv=["r.yaml", "--resume", "runs/a", "a=1"]
    )
    assert (between.recipe, between.overrides) == (Path("r.yaml"), ("a=1",))


def test_help_names_the_options_and_takes_a_run_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        read_request(Run, description="", options=options(), path_name="RUN_DIR", argv=[str(tmp_path), "-h"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert "RUN_DIR [key.path=value ...] [options]" in out
    assert "go on with a run" in out


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    request = read_request(Run, description="", argv=[write(folder, ""), "steps=1"])
    assert isinstance(request, Request)
    assert (request.recipe, request.overrides) == (folder / "r.yaml", ("steps=1",))


def test_the_command_for_an_annotation_file_can_be_pasted(tmp_path):
    path = tmp_path / "my data.json"
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(InputError) as error:
        load(Run, path)
    command = str(error.value).split("`")[1]
    assert shlex.split(command) == ["semipose", "init", str(path), "PHOTOS"]
