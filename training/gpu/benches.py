"""The benchmarks, as commands of their own; what a limit cuts short leaves a sentence."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.load import InputError
from pipelines.bench.result import read_result
from training.gpu.commands import run_one

BENCHES: Mapping[str, tuple[str, ...]] = {
    "pipelines": ("-m", "pipelines.bench", "rounds=3"),
    "training": ("-m", "training.bench", "rounds=3"),
}


def run_benches(
    work: Path, *, seconds: float, benches: Mapping[str, tuple[str, ...]] = BENCHES
) -> Iterator[dict[str, Any]]:
    """Run every benchmark in an equal share of the time that is left; what is known so far, after each."""
    deadline = time.monotonic() + seconds
    results: dict[str, Any] = {}
    problems: list[str] = []
    for done, (name, words) in enumerate(benches.items()):
        share_s = (deadline - time.monotonic()) / (len(benches) - done)
        output = work / f"{name}.json"
        output.unlink(missing_ok=True)
        ended = run_one([*words, f"output={output.resolve()}"], work / f"{name}.log", seconds=share_s)
        try:
            results[name] = {"seconds": ended.seconds, **asdict(read_result(output))}
        except InputError as error:
            problems.append(f"{name}: {ended.problem or error}")
        else:
            problems += [f"{name}: {ended.problem}"] if ended.problem else []
        yield {"results": dict(results), "problems": list(problems)}
