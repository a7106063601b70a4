"""The consoles that commands print to."""

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A console of rich with these options that prints names and values of users as they are.

    Rich itself drops `[...]` in them as markup, puts pictures for `:key:`, and colours numbers.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)
