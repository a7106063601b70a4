"""Threads that wait give up their core, in every command that trains, unless the user says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WATCH = """if True:
    import os, sys

    class Watch:
        def find_spec(self, name, *_):
            if name == "torch":
                print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
                os._exit(0)

    sys.meta_path.insert(0, Watch())
"""
"""Prints how threads wait when torch is about to be imported for the first time."""


@pytest.mark.parametrize(
    "command",
    [
        "import semipose.training.run",
        "import semipose.training.evaluate",
        "import semipose.training.bench.__main__ as bench; bench.main(['steps'])",
    ],
)
@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_how_long_threads_spin_is_set_before_torch_is_loaded(
    command: str, said: dict[str, str], expected: str
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP", "OMP"))}
    done = subprocess.run(
        [sys.executable, "-c", WATCH + f"    {command}"],
        cwd=ROOT,
        env=environment | said,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{expected}\n"
