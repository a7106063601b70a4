"""Outcomes of test files are read whole, also of files that hang or crash."""

from pathlib import Path
from typing import Any

import pytest

from training.gpu.commands import run_one
from training.gpu.marked_tests import read_file, run_tests

PASSES = """
import pytest
@pytest.mark.gpu
def test_well(): pass
def test_without_the_mark(): assert False
"""
FAILS = """
import pytest
@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 2])
def test_badly(n): assert n == 1, "two is not one"
@pytest.mark.gpu
def test_left_out(): pytest.skip("no second GPU")
"""
CRASHES = """
import os, pytest
@pytest.mark.gpu
def test_well(): pass
@pytest.mark.gpu
def test_that_ends_the_process(): os._exit(139)
"""
HANGS = """
import signal, time, pytest
@pytest.mark.gpu
def test_well(): pass
@pytest.mark.gpu
def test_that_waits_for_ever():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(600)
"""
BROKEN = "import pytest\npytest.mark.gpu\nimport no_such_module_of_ours\n"
WORDS_ALONE = "# mark.gpu\ndef test_any(): assert False\n"
NO_MARK = "def test_any(): assert False\n"


def check(folder: Path, files: dict[str, str], *, seconds: float = 60.0) -> dict[str, Any]:
    """The last of what the tests say."""
    (folder / "tests").mkdir()
    (folder / "work").mkdir()
    for name, text in files.items():
        (folder / "tests" / f"test_{name}.py").write_text(text)
    return list(run_tests(folder / "tests", folder / "work", seconds=seconds, grace_s=1.0))[-1]


def test_counts_and_failures(tmp_path: Path) -> None:
    found = check(
        tmp_path,
        {"broken": BROKEN, "fails": FAILS, "passes": PASSES, "unmarked": NO_MARK, "words": WORDS_ALONE},
    )
    assert [found[key] for key in ("files", "passed", "failed", "skipped")] == [4, 2, 2, 1]
    absent, assertion = sorted(found["problems"])
    assert "No module named 'no_such_module_of_ours'" in absent
    assert "test_badly[2]" in assertion
    assert "two is not one" in assertion
    assert "no second GPU" in found["skip_reasons"][0]


@pytest.mark.slow
def test_a_crash_and_a_hang_cost_only_themselves(tmp_path: Path) -> None:
    files = {"crashes": CRASHES, "hangs": HANGS, "passes": PASSES}
    found = check(tmp_path, files, seconds=40.0)
    assert [found[key] for key in ("passed", "failed")] == [3, 0]
    crash, hang = sorted(found["problems"])
    assert "test_crashes: broke off in" in crash
    assert "test_that_ends_the_process" in crash
    assert "exit code 139" in crash
    assert "test_that_waits_for_ever" in hang
    assert "limit" in hang


def test_files_without_time_and_a_machine_without_passing_tests_are_problems(tmp_path: Path) -> None:
    found = check(tmp_path, {"passes": PASSES}, seconds=0.5)
    assert "not begun" in found["problems"][0]
    assert "no test passed" in found["problems"][1]


def test_a_log_tells_where_a_file_broke_off(tmp_path: Path) -> None:
    log = "t/x.py::test_one PASSED [ 50%]\nt/x.py::test_two[a b] FAILED\nt/x.py::test_three "
    ended = run_one(
        ["-c", f"import os; print({log!r}, flush=True); os._exit(139)"], tmp_path / "x.log", seconds=60
    )
    counts, _, problems = read_file(tmp_path / "absent.xml", ended)
    assert counts == {"passed": 1, "failed": 1}
    assert problems[0].startswith("t/x.py::test_two[a b]: see")
    assert "broke off in t/x.py::test_three: exit code 139" in problems[1]


@pytest.mark.parametrize("text", ["", "<testsuites"])
def test_a_broken_xml_is_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    ended = run_one(["-c", "print('tests/x.py::test_one PASSED')"], tmp_path / "a.log", seconds=60)
    counts, _, problems = read_file(tmp_path / "a.xml", ended)
    assert counts == {"passed": 1}
    assert "left no result" in problems[0]
