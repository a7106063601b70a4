"""The check: parts one after the other, the result written after every step of each."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from semipose.configs.console import plain_console
from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.models.files import write_json
from semipose.sharding.store.files import write_atomic
from semipose.training.bench.gpu_check.benches import run_benches
from semipose.training.bench.gpu_check.markdown import to_markdown
from semipose.training.bench.gpu_check.marked_tests import run_tests
from semipose.training.bench.gpu_check.short_run import run_short
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.processes import ROOT

PartName = Literal["tests", "bench", "train"]
Part = Callable[[Path, float], Iterator[dict[str, Any]]]
"""Takes its folder and its seconds, yields what it knows so far (`problems` among it), again and again."""
console = plain_console()


@settings
class GpuCheckSettings:
    """The check of a machine with a GPU."""

    parts: Annotated[tuple[PartName, ...], Field(min_length=1)] = ("tests", "train", "bench")
    """What is run, in this order."""
    seconds: Annotated[float, Field(gt=0)] = 540.0
    """Limit of the whole check, its start included; time that a part leaves over goes to the next."""
    output: Path = Path("runs/gpu-check")
    """Folder of result.json, result.md and the logs."""
    commit: str | None = None
    """Commit of the code, if there is no git to ask."""


SHARES: Mapping[str, float] = {"tests": 0.34, "train": 0.22, "bench": 0.44}
"""How the time is divided if all parts run; the benchmarks compile large networks."""


def parts_of(cfg: GpuCheckSettings) -> dict[str, Part]:
    """The parts by name, in order."""
    known: dict[str, Part] = {
        "tests": lambda work, seconds: run_tests(ROOT / "tests", work, seconds=seconds),
        "bench": lambda work, seconds: run_benches(work, seconds=seconds),
        "train": lambda work, seconds: run_short(work, seconds=seconds),
    }
    return {name: known[name] for name in cfg.parts}


def check(
    cfg: GpuCheckSettings,
    parts: Mapping[str, Part],
    shares: Mapping[str, float] = SHARES,
    *,
    began: float | None = None,
) -> dict[str, Any]:
    """Run the parts one after the other, write the result after every step of each, and return it.

    began: from when on its seconds count, by the monotonic clock; without it from now.
    """
    began, folder = began or time.monotonic(), cfg.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    waiting = {"state": "waiting", "seconds": 0.0, "problems": ["not begun"]}
    result: dict[str, Any] = {
        "machine": describe_machine() | ({"commit": cfg.commit} if cfg.commit else {}),
        "command": " ".join(["python training/gpu_check.py", *sys.argv[1:]]),
        "parts": {name: dict(waiting) for name in parts},
    }
    left = list(parts)
    for name, part in parts.items():
        share = shares[name] / sum(shares[each] for each in left)
        seconds = share * (cfg.seconds - (time.monotonic() - began))
        console.print(f"{name}: at most {seconds:.0f} s", style="bold")
        part_began, state, found = time.monotonic(), "running", {"problems": ["broke off"]}
        steps = guarded(part, folder / name, seconds)
        while state == "running":
            step = next(steps, None)
            state = "done" if step is None else "running"
            found = step or found
            result["parts"][name] = {"state": state, "seconds": time.monotonic() - part_began, **found}
            write(folder, result, time.monotonic() - began)
        left.remove(name)
        for problem in found["problems"]:
            console.print(f"{name}: {problem}", style="red")
    return result


def guarded(part: Part, work: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """What a part yields; an error of the part itself is a problem beside what it knew."""
    found: dict[str, Any] = {"problems": []}
    try:
        work.mkdir(parents=True, exist_ok=True)
        for step in part(work, seconds):
            found = step
            yield found
    except Exception as error:  # whatever it is, the next part is worth running
        yield {**found, "problems": [*found["problems"], f"{type(error).__name__}: {error}"]}


def keep_bytecode(folder: Path) -> None:
    """Let the processes of the check compile each library once: some fifty of them import torch.

    folder: takes the bytecode where the libraries were installed without any.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not Path(importlib.util.cache_from_source(torch.__file__)).exists():
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(folder))


def write(folder: Path, result: dict[str, Any], seconds: float) -> None:
    """Write both files, each whole."""
    result["seconds"] = seconds
    result["is_ok"] = all(p["state"] == "done" and not p["problems"] for p in result["parts"].values())
    write_json(folder / "result.json", result)
    write_atomic(folder / "result.md", to_markdown(result).encode())


def main(cfg: GpuCheckSettings, *, began: float | None = None) -> None:
    """Check that there is a GPU, run the parts, and say by the exit code how it went. Raises InputError."""
    if not torch.cuda.is_available():
        raise InputError(
            f"torch {torch.__version__} finds no GPU here: run this on a machine that has an NVIDIA GPU"
        )
    keep_bytecode(cfg.output.resolve() / "bytecode")
    # A kill from outside is an exit like any other, so that what runs is ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    result = check(cfg, parts_of(cfg), began=began)
    console.print(to_markdown(result), soft_wrap=True)
    console.print(f"written to {cfg.output / 'result.json'} and result.md")
    raise SystemExit(0 if result["is_ok"] else 1)
