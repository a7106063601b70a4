"""Write the page of a run, one HTML file that needs nothing else.

    semipose report RUN_DIR [against=RUN_DIR] [output=FILE]

It reads RUN_DIR alone (its scores, metrics, card, people and pictures), so the shards may be elsewhere.
Without `against`, it compares the run with the supervised run beside it that has the same labelled and scored
people and as many steps.
"""

import sys
from pathlib import Path

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError, exit_on_input_error, load, read_request
from semipose.configs.settings import settings
from semipose.models.files import PAGE_NAME
from semipose.training.reporting.page.page import write_page


@settings
class PageSettings:
    """The page of a run."""

    against: str | None = None
    """The folder of the run to compare with; null: the supervised run beside it, if one fits."""
    output: str | None = None
    """The file to write; null: report.html in the run's folder."""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            PageSettings, description="Write the page of a run.", path_name="RUN_DIR", argv=argv
        )
        if request.recipe is None:
            raise InputError("command line: RUN_DIR is missing: give the folder of a run")
        cfg = load(PageSettings, None, request.overrides)
        against, output = cfg.against and Path(cfg.against), cfg.output and Path(cfg.output)
        with named_disk_errors(Path(output or request.recipe / PAGE_NAME)):
            path = write_page(request.recipe, against=against or None, output=output or None)
        sys.stdout.write(f"written: {path}\n")


if __name__ == "__main__":
    main()
