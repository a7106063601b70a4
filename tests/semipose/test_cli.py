"""The `semipose` command: its table, its speed, and what it does not import."""

import ast
import importlib
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

import semipose
from semipose import cli, doctor

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("semipose", "models", "pipelines", "sharding", "training")


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from semipose.cli import main; main(['--help']); "
        "assert not {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)


def test_python_dash_m_is_the_same_command() -> None:
    """For an environment whose scripts are not on the path."""
    words = [sys.executable, "-m", "semipose", "--version"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"semipose {semipose.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_a_function_of_its_words(name: str) -> None:
    assert callable(importlib.import_module(cli.COMMANDS[name][0]).main)


def test_messages_name_commands_that_an_installed_package_has() -> None:
    """Not scripts of a checkout; docstrings, which only its readers see, may name those."""
    sources = [path for part in PARTS for path in (ROOT / part).rglob("*.py") if "bench" not in path.parts]
    assert len(sources) > 200
    for path in sources:
        tree = ast.parse(path.read_text())
        documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in set(ast.walk(tree)) - documentation:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                where = f"{path}:{node.lineno}: {node.value}"
                assert not re.search(r"python (training|sharding|pipelines|models)/", node.value), where
                assert set(re.findall(r"`semipose (\w+)", node.value)) <= set(cli.COMMANDS), where


def test_an_unknown_command_is_named_with_the_nearest(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["predit"])
    assert stop.value.code == 2
    assert "no command 'predit': did you mean predict?" in capsys.readouterr().err


def test_predicting_needs_no_library_of_training_alone(run_folder: Path, write_photo, tmp_path) -> None:
    """DALI and triton exist for Linux alone, accelerate and webdataset serve training."""
    write_photo(tmp_path / "photos" / "a.png")
    code = f"""if True:
        import sys
        blocked = ["nvidia", "nvidia.dali", "triton", "accelerate", "webdataset", "fcntl", "numba", "av"]
        sys.modules |= dict.fromkeys(blocked)
        import semipose, semipose.doctor, semipose.predict.command
        import semipose.label.choose, semipose.label.merge, semipose.label.out
        people = semipose.load({str(run_folder)!r}, people="whole")({str(tmp_path / "photos" / "a.png")!r})
        assert people.xy.shape == (1, 14, 2)
        words = [{str(run_folder)!r}, {str(tmp_path / "photos")!r}, "people.name=whole"]
        semipose.predict.command.main([*words, {f"output={tmp_path / 'out'}"!r}])"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "out" / "keypoints.json").is_file()
    assert (tmp_path / "out" / "drawn" / "a.png.jpg").is_file()


def test_the_doctor_says_what_is_there_and_how_to_get_the_rest(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(sys.modules, "av", None)
    doctor.main([])
    table = capsys.readouterr().out
    assert "pip install 'semipose[video]'" in table
    assert "decodes" in table


def test_the_doctor_knows_every_extra_of_the_package(capsys, monkeypatch) -> None:
    """Those that it does not find; `vitpose` is another name of what `rtdetr` installs."""
    monkeypatch.setenv("COLUMNS", "300")
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    del extras["dev"]
    for package in chain.from_iterable(extras.values()):
        monkeypatch.setitem(sys.modules, package.split(">")[0], None)
    doctor.main([])
    table = capsys.readouterr().out
    assert {extra for extra in extras if f"'semipose[{extra}]'" not in table} == {"vitpose"}


def test_the_doctor_fails_where_predicting_cannot_work(capsys, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_decoder", lambda: 1 / 0)
    with pytest.raises(SystemExit) as stop:
        doctor.main([])
    assert stop.value.code == 1
    assert "missing" in capsys.readouterr().out


def test_shards_are_built_and_verified_by_one_verb(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["shards"])
    assert stop.value.code == 2
    assert "a recipe is missing" in capsys.readouterr().err
    drawn = [f"source.folder={tmp_path / 'coco'}", "source.people=3", f"output={tmp_path / 'drawn'}"]
    cli.main(["shards", str(ROOT / "configs/shards/drawn.yaml"), *drawn, "workers=1"])
    cli.main(["shards", f"verify={tmp_path / 'drawn'}", "workers=1"])
    assert str(tmp_path / "drawn") in capsys.readouterr().out
