"""The result of a check as one Markdown table."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from semipose.training.bench import tables
from semipose.training.bench.result import to_result

Line = tuple[str, str, str, str]
COLUMNS: Line = ("part", "what", "result", "beside it")


def to_markdown(result: dict[str, Any]) -> str:
    """The whole text: machine, versions, command; the table; what went wrong."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    verdict = "passed" if result["is_ok"] else "**not passed**"
    software = f"CUDA {machine['cuda']}, {versions}"
    head = [
        f"### GPU check on {machine['gpu']}, {machine['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores; {software}; commit {machine['commit']}.",
        f"`{result['command']}`: {result['seconds']:.0f} s, {verdict}.",
        "",
    ]
    lines = [
        COLUMNS,
        ("---",) * 4,
        *(line for name, part in result["parts"].items() for line in table(name, part)),
    ]
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    problems = [f"* {name}: {text}" for name, part in result["parts"].items() for text in part["problems"]]
    tail = ["", "What went wrong:", "", *(in_one_line(problem) for problem in problems)] if problems else []
    return "\n".join([*head, *body, *tail]) + "\n"


def in_one_line(text: str) -> str:
    """The first line, and the last of the log that follows it; the rest stays in the JSON."""
    first, *more = [line for line in text.splitlines() if line.strip()]
    return f"{first} {more[-1].strip()}" if more else first


def table(name: str, part: dict[str, Any]) -> Iterator[Line]:
    """The lines of one part; a part that broke off has those that it got to."""
    count = len(part["problems"])
    state = f"**{count} problem{'s' if count > 1 else ''}**" if count else "done"
    state = {"done": state, "running": "**broke off**", "waiting": "**not begun**"}[part["state"]]
    yield name, "", state, f"{part['seconds']:.0f} s"
    if "passed" in part:
        yield from tests(name, part)
    for bench, content in part.get("results", {}).items():
        for line in chain.from_iterable(tables.sections(to_result(content)).values()):
            yield f"{name}: {bench}", line.what, *bench_cells(line)
    for recipe, run in part.get("runs", {}).items():
        yield from run_rows(f"{name}: {recipe}", run)


def tests(name: str, part: dict[str, Any]) -> Iterator[Line]:
    """Counts of the tests."""
    counts = f"{part['passed']} passed, {part['failed']} failed, {part['skipped']} skipped"
    # A skip is NODE: REASON; a hundred tests may share one reason.
    reasons = dict.fromkeys(skip.split(": ", 1)[-1] for skip in part["skip_reasons"])
    yield name, f"gpu-marked tests in {part['files']} files", counts, "; ".join(reasons)


def bench_cells(line: tables.Line) -> tuple[str, str]:
    """What was measured with its quartiles; beside it the ratio to the base, facts, or what was asked."""
    quartiles = f" ({line.quartiles})" if line.quartiles else ""
    times = f"{line.times} {line.base}" if line.times else ""
    return line.measured + quartiles, ", ".join(filter(None, (times, line.beside)))


def run_rows(name: str, run: dict[str, Any]) -> Iterator[Line]:
    """Scores and speed of a training run."""
    yield name, "steps", f"{run['steps']:,}", f"{run['seconds']:.0f} s with start, compiling and scoring"
    for network, scores in run["scores"].items():
        shown = ", ".join(f"{score} {100 * value:.1f}" for score, value in scores.items())
        yield name, f"scores of {network}, people never seen", shown, ""
    if "seconds_per_step" in run:
        speed = f"{1 / run['seconds_per_step']:.1f} steps/s, {run['samples_per_s']:,.0f} people/s"
        beside = (
            f"data wait {100 * run['data_wait_share']:.2f} %, peak memory {run['peak_memory_gib']:.2f} GiB"
        )
        yield name, "speed, second half", speed, beside
