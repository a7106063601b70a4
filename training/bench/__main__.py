"""Measure: `python -m semipose.training.bench BENCH [key=value ...]`; README.md explains the rows."""

import sys
from importlib import import_module

BENCHES = {
    "loader": "Throughput of the loader by stage, and of masking, against the classic loader and others.",
    "steps": "Speed, data wait and memory of training steps, with our loader and the classic one.",
    "loader-growth": "How the cost of loading and masking grows with batch, keypoints, paths, shards, ranks.",
    "step-growth": "How the time of a step grows with batch, keypoints, strong paths and ranks.",
    "photos": "Whole photos: their loader, and targets, losses and decoding of each family, against others.",
    "shards": "Sharding against a plain loop: time, memory, bytes.",
}


def main(words: list[str]) -> None:
    """Run the benchmark that the first word names, with the settings of the others."""
    name, settings = (words[0] if words else "--help"), words[1:]
    if name not in BENCHES:
        wants_help = name in ("-h", "--help")
        benches = "\n".join(f"  {bench:<14} {description}" for bench, description in BENCHES.items())
        text = (
            f"usage: python -m semipose.training.bench BENCH [key.path=value ...]\n\nbenchmarks:\n{benches}\n"
        )
        (sys.stdout if wants_help else sys.stderr).write(text)
        raise SystemExit(0 if wants_help else 2)

    if name in ("steps", "step-growth"):
        from semipose.configs.openmp import bound_spinning

        bound_spinning()  # before torch is imported; the measured processes inherit it
    from semipose.configs.console import plain_console
    from semipose.configs.load import command

    bench = import_module(f"semipose.training.bench.{name.replace('-', '_')}")
    sys.argv[0] = f"python -m semipose.training.bench {name}"
    command(
        bench.Settings, lambda cfg: bench.run(cfg, plain_console()), description=BENCHES[name], argv=settings
    )


if __name__ == "__main__":  # imports stand in main: the processes that cut photos import this file again
    main(sys.argv[1:])
