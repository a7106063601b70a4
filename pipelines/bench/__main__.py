"""Measure the pipelines: `python -m pipelines.bench [key=value ...]`; see README.md."""

if __name__ == "__main__":  # nothing else here: the processes that cut photos import this file again
    from pipelines.bench.run import main

    main()
