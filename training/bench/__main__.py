"""Measure training steps: `python -m training.bench [key=value ...]`; see README.md."""

if __name__ == "__main__":  # nothing else here: the processes that cut photos import this file again
    from configs.openmp import bound_spinning

    bound_spinning()  # the measured processes inherit it

    from training.bench.run import main

    main()
