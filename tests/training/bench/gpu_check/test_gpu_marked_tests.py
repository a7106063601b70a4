"""Outcomes of the GPU's tests are read whole, also where one hangs or crashes."""

from pathlib import Path
from typing import Any

import pytest

from semipose.training.bench.gpu_check.marked_tests import read, run_tests
from semipose.training.bench.processes import run_command

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
MANY_PASS = """
import pytest
@pytest.mark.gpu
@pytest.mark.parametrize("n", range(10))
def test_well(n): pass
"""
WRITES_DOWN = """
import os, pathlib, pytest
@pytest.mark.gpu
@pytest.mark.parametrize("n", range(2))
def test_any(n, request):
    with pathlib.Path("FOLDER", os.environ["PYTEST_XDIST_WORKER"]).open("a") as file:
        print(request.node.path.name, file=file)
"""
BROKEN = "import pytest\npytest.mark.gpu\nimport no_such_module_of_ours\n"
WORDS_ALONE = "# mark.gpu\ndef test_any(): assert False\n"
NO_MARK = "def test_any(): assert False\n"


def check(folder: Path, files: dict[str, str], *, seconds: float = 60.0) -> dict[str, Any]:
    """What the tests say."""
    (folder / "tests").mkdir()
    (folder / "work").mkdir()
    for name, text in files.items():
        (folder / "tests" / f"test_{name}.py").write_text(text)
    *_, found = run_tests(folder / "tests", folder / "work", seconds=seconds, processes=2, grace_s=2.0)
    return found


def test_counts_and_failures(tmp_path: Path) -> None:
    found = check(tmp_path, {"fails": FAILS, "passes": PASSES, "unmarked": NO_MARK, "words": WORDS_ALONE})
    assert [found[key] for key in ("files", "passed", "failed", "skipped")] == [3, 2, 1, 1]
    (assertion,) = found["problems"]
    assert "test_badly[2]" in assertion
    assert "two is not one" in assertion
    assert "no second GPU" in found["skip_reasons"][0]


def test_whole_runs_begin_first_each_in_a_process_of_its_own(tmp_path: Path) -> None:
    text = WRITES_DOWN.replace("FOLDER", str(tmp_path))
    found = check(tmp_path, {"a": text, "runs_on_devices": text, "z": text})
    assert found["passed"] == 6
    first = [(tmp_path / process).read_text().splitlines()[0] for process in ("gw0", "gw1")]
    assert first == ["test_runs_on_devices.py"] * 2


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    found = check(tmp_path, {"broken": BROKEN, "passes": PASSES})
    assert any("No module named 'no_such_module_of_ours'" in each for each in found["problems"])


def test_a_crash_costs_only_itself(tmp_path: Path) -> None:
    found = check(tmp_path, {"crashes": CRASHES, "passes": PASSES})
    assert [found[key] for key in ("passed", "failed")] == [2, 1]
    (crash,) = found["problems"]
    assert "test_that_ends_the_process" in crash
    assert "crashed" in crash


@pytest.mark.slow
def test_a_hang_is_named_and_the_other_process_goes_on(tmp_path: Path) -> None:
    found = check(tmp_path, {"hangs": HANGS, "passes": MANY_PASS}, seconds=30.0)
    assert found["passed"] >= 9  # the next one waits behind the one that hangs
    assert found["failed"] == 0
    (hang,) = found["problems"]
    assert "broke off in" in hang
    assert "test_that_waits_for_ever: stopped at its limit" in hang


def test_a_machine_without_passing_tests_is_a_problem(tmp_path: Path) -> None:
    found = check(tmp_path, {"words": WORDS_ALONE})
    assert found["passed"] == 0
    assert "no test passed" in found["problems"][-1]


def test_a_log_names_the_test_that_ran_when_it_broke_off(tmp_path: Path) -> None:
    log = (
        "t/x.py::test_one \nt/x.py::test_two[a b] \nt/x.py::test_three \n"
        "[gw0] [ 33%] PASSED t/x.py::test_one \n[gw1] [ 66%] FAILED t/x.py::test_two[a b] \n"
    )
    ended = run_command(
        ["-c", f"import os; print({log!r}, flush=True); os._exit(139)"], tmp_path / "x.log", seconds=60
    )
    counts, _, problems = read(tmp_path / "absent.xml", ended)
    assert counts == {"passed": 1, "failed": 1}
    assert problems[0].startswith("t/x.py::test_two[a b]: see")
    assert "broke off in t/x.py::test_three: exit code 139" in problems[1]


@pytest.mark.parametrize("text", ["", "<testsuites"])
def test_a_broken_xml_counts_as_no_result(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    line = "[gw0] [100%] PASSED tests/x.py::test_one"
    ended = run_command(["-c", f"print({line!r})"], tmp_path / "a.log", seconds=60)
    counts, _, problems = read(tmp_path / "a.xml", ended)
    assert counts == {"passed": 1}
    assert "left no result" in problems[0]


def test_an_interrupted_test_has_not_passed(tmp_path: Path) -> None:
    """pytest writes a case without a name for it."""
    case = '<testcase classname="t" name="test_one" time="1" /><testcase time="0.003" />'
    (tmp_path / "a.xml").write_text(f"<testsuites><testsuite>{case}</testsuite></testsuites>")
    ended = run_command(["-c", "print('t.py::test_two ')"], tmp_path / "a.log", seconds=60)
    counts, _, _ = read(tmp_path / "a.xml", ended)
    assert counts == {"passed": 1}
