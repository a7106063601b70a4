"""Variables of MATLAB files."""

from pathlib import Path
from typing import Any

import scipy.io

from semipose.configs.load import InputError


def load_mat(path: Path, key: str, expected: str, *, as_objects: bool = False) -> Any:
    """A variable of a MATLAB file. as_objects: structs as objects, without dimensions of length 1."""
    if not path.is_file():
        raise InputError(f"{path}: the annotations cannot be read (no such file): correct the path")
    try:
        return scipy.io.loadmat(path, struct_as_record=not as_objects, squeeze_me=as_objects)[key]
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InputError(
            f"{path}: this is no MATLAB file with `{key}` ({error}): give a complete {expected}"
        ) from error
