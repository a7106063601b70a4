"""The tests marked `gpu`: every file in a process of its own, so that a hang or a crash costs only itself."""

import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.gpu.commands import Ended, run_all

FILES_AT_ONCE = 4
LONGEST_TEST_S = 60
"""A test that takes longer has the stacks of all its threads printed into its log."""
FILE_SHARE = 0.9
"""Of the time of all: the limit of one file."""
NO_TEST_LEFT = 5
"""pytest's exit code for a file that has the words but no marked test."""
OUTCOME = re.compile(r"(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)")


def run_tests(folder: Path, work: Path, *, seconds: float, grace_s: float = 10.0) -> Iterator[dict[str, Any]]:
    """Run the gpu-marked tests below `folder`; what is known so far, after each file."""
    files = [path for path in folder.rglob("test_*.py") if "mark.gpu" in path.read_text()]
    files.sort(key=lambda path: (-path.stat().st_size, path.name))  # what may take longest begins first
    commands = {path.stem: words(path, work / f"{path.stem}.xml") for path in files}
    at_once = max(1, min(FILES_AT_ONCE, len(os.sched_getaffinity(0)) // 2))
    counts: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    skipped: list[str] = []
    waiting = dict.fromkeys(commands)
    problems: list[str] = []
    limits = {"seconds": seconds, "each_s": FILE_SHARE * seconds, "grace_s": grace_s}
    for name, ended in run_all(commands, work, at_once=at_once, **limits):
        del waiting[name]
        found, reasons, failures = read_file(work / f"{name}.xml", ended)
        counts.update(found)
        skipped += reasons
        problems += failures
        yield {"files": len(files), **counts, "skip_reasons": skipped, "problems": [*problems]}
    problems += [f"{name}: not begun, the time was up" for name in waiting]
    if not counts["passed"]:
        problems.append(f"no test passed: none of the {len(files)} files with gpu-marked tests got that far")
    yield {"files": len(files), **counts, "skip_reasons": skipped, "problems": problems}


def words(path: Path, xml: Path) -> list[str]:
    """The command for one file."""
    options = ["-m", "gpu", "-v", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={LONGEST_TEST_S}"]
    return ["-m", "pytest", *options, f"--junitxml={xml.resolve()}", str(path.resolve())]


def read_file(xml: Path, ended: Ended) -> tuple[Counter[str], list[str], list[str]]:
    """Counts, reasons of skips, and problems of one file: from its JUnit XML, or else from its log."""
    try:
        root = ET.parse(xml).getroot()
    except (OSError, ET.ParseError):
        return read_log(ended)
    counts: Counter[str] = Counter()
    reasons, problems = [], []
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            problems.append(f"{name}: {first_line(bad.get('message'))}{last_error(bad.text)}")
        elif skip is not None:
            reasons.append(f"{name}: {first_line(skip.get('message'))}")
        counts["failed" if bad is not None else "skipped" if skip is not None else "passed"] += 1
    if ended.problem and not problems and ended.code != NO_TEST_LEFT:
        problems.append(f"{xml.stem}: {ended.problem}")
    return counts, reasons, problems


def read_log(ended: Ended) -> tuple[Counter[str], list[str], list[str]]:
    """The same from the lines of `pytest -v`, after a crash or a hang."""
    text = ended.log.read_text(errors="replace")
    outcomes = dict(OUTCOME.findall(text))
    names = {"PASSED": "passed", "SKIPPED": "skipped", "FAILED": "failed", "ERROR": "failed"}
    counts = Counter(names[outcome] for outcome in outcomes.values())
    problems = [
        f"{name}: see {ended.log}" for name, outcome in outcomes.items() if names[outcome] == "failed"
    ]
    begun = [line.split(" ")[0] for line in text.splitlines() if re.match(r"\S+::\S", line)]
    during = f" in {begun[-1]}" if begun and begun[-1] not in outcomes else ""
    return (
        counts,
        [],
        [*problems, f"{ended.log.stem}: broke off{during}: {ended.problem or 'left no result'}"],
    )


def last_error(text: str | None) -> str:
    """The last line of a traceback that pytest marks, where a file could not even be imported."""
    marked = [line[1:].strip() for line in (text or "").splitlines() if line.startswith("E ")]
    return f" ({marked[-1][:200]})" if marked else ""


def first_line(message: str | None) -> str:
    """A message's first line, cut to what fits into a table."""
    return ((message or "").strip().splitlines() or ["no message"])[0][:200]
