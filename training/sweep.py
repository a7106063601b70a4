"""Train a queue of runs, which continues where it stopped, and print the table of the finished ones.

    python training/sweep.py SWEEP.yaml [key=value ...]

Every method is run by every protocol with every value and every seed, one process per run, all runs of one
seed before the next. Several sweeps of one recipe, started side by side, share its queue. On SIGTERM, SIGHUP
and Ctrl-C the current run saves and the queue ends; started again, it continues from there.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import command
from semipose.training.experiments.run_queue import Worker, console, work
from semipose.training.experiments.sweep_plan import SweepSettings, plan, refuse_other_runs
from semipose.training.experiments.tables import CompareSettings, read_all, report


def sweep(cfg: SweepSettings) -> None:
    """Work on the queue until it is empty or time is up; print the table; exit with 1 if a run failed."""
    items = plan(cfg)
    refuse_other_runs(items)
    worker = Worker(cfg.minutes)
    with named_disk_errors(Path(cfg.output), then="start the same command again; it goes on"):
        with worker.stopping_on_signals():
            failed = work(items, worker)
        done = sum(item.is_done for item in items)
        console.print(f"{done} of {len(items)} runs are finished in {cfg.output}")
        if done:
            found = read_all([Path(cfg.output)])
            shown = CompareSettings(baseline=cfg.baseline, plot=cfg.plot)
            report(found, shown, Path(cfg.output))
    if failed:
        console.print("\n".join(failed.values()))
        raise SystemExit(1)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    what = "A queue of training runs, and their table."
    command(SweepSettings, sweep, description=what, recipes="sweeps", argv=argv)


if __name__ == "__main__":
    main()
