"""semipose shards RECIPE [key=value ...] | verify=OUTPUT: what `python sharding/build.py` does."""

import sys

from semipose.configs.load import command
from semipose.sharding.build import BuildSettings, verify_command
from semipose.sharding.build import main as build


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.startswith("verify=") for word in words):
        verify_command(words)
        return
    description = "Build shards from annotations and photos; check=only checks, verify=OUTPUT reads again."
    command(BuildSettings, build, description=description, recipes="shards", argv=words)


if __name__ == "__main__":
    main()
