"""The tests marked `gpu`, shared among processes: one that hangs or crashes does not stop the others."""

import os
import re
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semipose.training.bench.processes import GRACE_S, ROOT, Ended, run_command

STARTED = re.compile(r"^(\S+::\S.*?) *$", re.MULTILINE)
OUTCOME = re.compile(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED) (\S+::\S.*?) *$", re.MULTILINE)
"""Lines of `pytest -v` where several processes share the tests."""
WHOLE_RUNS = ("test_runs_on_devices.py", "test_compile.py")
"""Files whose tests start whole runs and take up to a minute each: they come first, by themselves."""
FIRST_SHARE = 0.5
"""Of the time for all: the limit of these, if there are others."""
STUCK_S = 60
"""After so long in one test, the log shows where it is."""


def run_tests(
    folder: Path, work: Path, *, seconds: float, processes: int | None = None, grace_s: float = GRACE_S
) -> Iterator[dict[str, Any]]:
    """Run the gpu-marked tests below `folder`, as many at once as suits the machine; their outcome so far."""
    deadline = time.monotonic() + seconds
    marked = [path for path in sorted(folder.rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    whole = [path for path in marked if path.name in WHOLE_RUNS]
    groups = {"runs": whole, "tests": [path for path in marked if path not in whole]}
    groups = {name: files for name, files in groups.items() if files}
    cores = len(os.sched_getaffinity(0))
    processes = processes or cores  # a test waits for the GPU, compiles and imports, each on one core
    counts: Counter[str] = Counter()
    skip_reasons, problems = [], []
    for done, (name, files) in enumerate(groups.items()):
        xml = work / f"{name}.xml"
        xml.unlink(missing_ok=True)
        share = FIRST_SHARE if done < len(groups) - 1 else 1.0
        ended = run_command(
            words(files, xml, processes),
            work / f"{name}.log",
            seconds=share * (deadline - time.monotonic()),
            grace_s=grace_s,
            folder=ROOT,
            # No plugin of pytest that happens to be on this machine.
            environment={
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "OMP_NUM_THREADS": str(max(1, cores // processes)),
            },
        )
        counted, reasons, wrong = read(xml, ended)
        counts += counted
        skip_reasons += reasons
        problems += wrong
        yield summary(len(marked), counts, skip_reasons, problems)
    if not counts["passed"]:
        none = f"no test passed: none of the {len(marked)} files with gpu-marked tests got that far"
        yield summary(len(marked), counts, skip_reasons, [*problems, none])


def summary(files: int, counts: Counter[str], skip_reasons: list[str], problems: list[str]) -> dict[str, Any]:
    """What came of the tests, as the check has it."""
    return {
        "files": files,
        **{outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")},
        "skip_reasons": list(skip_reasons),
        "problems": list(problems),
    }


def words(files: list[Path], xml: Path, processes: int) -> list[str]:
    """The command. A process that has no test left takes some from another."""
    several = ["-p", "xdist.plugin", f"--numprocesses={processes}", "--dist=worksteal"]
    options = ["-m", "gpu", "-v", "-p", "no:cacheprovider", "--durations=12", f"--junitxml={xml.resolve()}"]
    options += ["-o", f"faulthandler_timeout={STUCK_S}"]
    return ["-m", "pytest", *several, *options, *(str(path.resolve()) for path in files)]


def read(xml: Path, ended: Ended) -> tuple[Counter[str], list[str], list[str]]:
    """Counts, reasons of skips, and problems: from the JUnit XML, or else from the log."""
    try:
        root = ET.parse(xml).getroot()
    except (OSError, ET.ParseError):
        return read_log(ended)
    counts: Counter[str] = Counter()
    reasons, problems = [], []
    for case in root.iter("testcase"):
        if not case.get("name"):  # of a test that was interrupted
            continue
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            problems.append(f"{name}: {first_line(bad.get('message'))}{last_error(bad.text)}")
        elif skip is not None:
            reasons.append(f"{name}: {first_line(skip.get('message'))}")
        counts["failed" if bad is not None else "skipped" if skip is not None else "passed"] += 1
    if ended.hit_limit or (ended.problem and not problems):
        problems.append(broken_off(ended))
    return counts, reasons, problems


def read_log(ended: Ended) -> tuple[Counter[str], list[str], list[str]]:
    """The same from the lines of `pytest -v`, where no XML was left."""
    names = {"PASSED": "passed", "SKIPPED": "skipped", "FAILED": "failed", "ERROR": "failed"}
    outcomes = {test: names[outcome] for outcome, test in OUTCOME.findall(text_of(ended))}
    problems = [f"{test}: see {ended.log}" for test, outcome in outcomes.items() if outcome == "failed"]
    return Counter(outcomes.values()), [], [*problems, broken_off(ended)]


def broken_off(ended: Ended) -> str:
    """How the tests ended before their end, and in which."""
    text = text_of(ended)
    done = {test for _, test in OUTCOME.findall(text)}
    within = [test for test in dict.fromkeys(STARTED.findall(text)) if test not in done]
    return f"broke off{' in ' if within else ''}{', '.join(within)}: {ended.problem or 'left no result'}"


def text_of(ended: Ended) -> str:
    """The whole log."""
    return ended.log.read_text(errors="replace")


def last_error(text: str | None) -> str:
    """The last line of a traceback that pytest marks, where a file could not even be imported."""
    marked = [line[1:].strip() for line in (text or "").splitlines() if line.startswith("E ")]
    return f" ({marked[-1][:200]})" if marked else ""


def first_line(message: str | None) -> str:
    """A message's first line, cut to what fits into a table."""
    return ((message or "").strip().splitlines() or ["no message"])[0][:200]
