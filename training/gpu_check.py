"""Everything that only a machine with a GPU can show: its tests, the benchmarks, a short real training.

    python training/gpu_check.py [key=value ...]

Each part runs in processes of its own with a limit. If one fails, the check says so and runs the next one.
After each part result.json and result.md are written anew, so that a killed check leaves what it had. Exit
code 0: all is well; 1: something is not; 2: no GPU here, or a wrong setting.
"""

import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from semipose.configs.load import command
from semipose.training.bench.gpu_check import BEGAN
from semipose.training.bench.gpu_check.check import GpuCheckSettings, main

if __name__ == "__main__":
    main_since = partial(main, began=BEGAN)
    command(GpuCheckSettings, main_since, description="Check everything that needs a GPU, and measure it.")
