"""One table of finished runs: means over seeds, and differences from a baseline seed by seed.

    python training/compare.py RUN_DIR... [baseline=NAME] [key=value ...]

RUN_DIR is a run or a folder that holds runs. Runs whose recipes differ in their seed alone make one row. Runs
of different protocols, labelled or scored people, or steps stand in tables of their own. `plot=curves` draws
score and loss over training, `plot=parameters` the score at the number of trained parameters.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError, exit_on_input_error, load, read_request
from semipose.training.experiments.tables import CompareSettings, check_baseline, read_all, report
from semipose.training.reporting.page.comparison import write_comparison


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            CompareSettings,
            description="One table of finished runs.",
            path_name="RUN_DIR...",
            takes_many=True,
            argv=argv,
        )
        if not request.paths:
            raise InputError("command line: RUN_DIR is missing: name run folders, or folders that hold some")
        cfg = load(CompareSettings, None, request.overrides)
        found = read_all(request.paths)
        check_baseline(cfg.baseline, found.tables)
        common = os.path.commonpath([path.absolute() for path in request.paths])
        output = Path(cfg.output or common)
        with named_disk_errors(output):
            report(found, cfg, output)
            if found.tables:
                sys.stdout.write(f"written: {write_comparison(found, cfg, output)}\n")


if __name__ == "__main__":
    main()
