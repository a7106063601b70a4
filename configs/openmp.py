"""How the threads of OpenMP, which torch computes with on a CPU, wait for one another."""

import os

SPIN_COUNT = "1000"


def bound_spinning() -> None:
    """Let a thread that waits give up its core soon, unless the environment says how threads wait.

    By default it looks for work for milliseconds on end, on a core that another process could use: two
    trainings side by side then take a multiple of the time of one (docs/results.md). Call it before torch is
    first imported, because the library reads this when it is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
