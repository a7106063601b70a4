"""Lists of names in words."""

from collections.abc import Sequence


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def some_of(names: Sequence[str], most: int = 3) -> str:
    """The first few names and how many there are besides, in one line: names of a file may be anything."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(", ".join(names[:most]).split())[:300] + more
