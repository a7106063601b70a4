"""`python -m semipose`: the `semipose` command where its script is not on the path."""

from semipose.cli import main

if __name__ == "__main__":
    main()
