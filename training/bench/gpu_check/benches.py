"""The benchmarks, as commands of their own; what a limit cuts short leaves a sentence."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semipose.configs.load import InputError
from semipose.training.bench.processes import GRACE_S, ROOT, run_command
from semipose.training.bench.result import read_result

ROWS = (
    "semi, bf16 compiled, batch 32",
    "semi, the classic way, batch 32",
)
"""Of the steps, what matters most: on an H100 a third row did not end within the time of the check."""
BENCHES: Mapping[str, tuple[str, ...]] = {
    "loader": ("-m", "semipose.training.bench", "loader", "rounds=1", "batches=6"),
    "steps": (
        "-m",
        "semipose.training.bench",
        "steps",
        f"only={json.dumps(ROWS)}",
        "rounds=1",
        "limits.seconds=5",
        "longest_s=110",
        "loader=WORK/loader.json",
    ),
}
FIRST_SHARE = 0.35
"""Of the time for all: the limit of the first, if there are several."""


def run_benches(
    work: Path, *, seconds: float, benches: Mapping[str, tuple[str, ...]] = BENCHES
) -> Iterator[dict[str, Any]]:
    """Run the benchmarks, the last with all the time that is left; what is known so far, after each."""
    deadline = time.monotonic() + seconds
    results: dict[str, Any] = {}
    problems: list[str] = []
    for done, (name, words) in enumerate(benches.items()):
        share = FIRST_SHARE if done < len(benches) - 1 else 1.0
        share_s = share * (deadline - time.monotonic())
        output = work / f"{name}.json"
        output.unlink(missing_ok=True)
        words = tuple(word.replace("WORK", str(work.resolve())) for word in words)
        ended = run_command(
            [*words, f"output={output.resolve()}"],
            work / f"{name}.log",
            seconds=share_s,
            grace_s=GRACE_S,
            folder=ROOT,
        )
        try:
            results[name] = {"seconds": ended.seconds, **asdict(read_result(output))}
        except InputError as error:
            problems.append(f"{name}: {ended.problem or error}")
        else:
            problems += [f"{name}: {ended.problem}"] if ended.problem else []
        yield {"results": dict(results), "problems": list(problems)}
