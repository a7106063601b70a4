"""Which versions of the libraries are at hand, for everything that is written down beside a number."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Python's version and those of `packages`; None for one that is not installed as a package.

    The project itself is none where it runs from a checkout with its libraries on PYTHONPATH.
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
