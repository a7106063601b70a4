"""Files of safetensors, which cannot hold code: what is in them, or one sentence why they cannot be read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from semipose.configs.errors import InputError, one_line
from semipose.configs.words import some_of


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises InputError."""
    with _named_faults(path):
        return safetensors.torch.load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises InputError."""
    with _named_faults(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, from its header alone. Raises InputError."""
    with _named_faults(path), safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def differing_shapes(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Which tensors are missing, too many or of another shape than a network needs; empty if none is."""
    differences = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {given[name]} instead of {shape}"
            for name, shape in wanted.items()
            if given.get(name, shape) != shape
        ],
    }
    return ", ".join(
        f"{len(names)} {kind} ({some_of(names)})" for kind, names in differences.items() if names
    )


@contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    """Turn what safetensors raises for a file that is missing or not one of its own into an InputError."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of weights: get the folder again")
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"{path}: this is no file of safetensors, or it is damaged ({one_line(error)}); nothing in it "
            "was run: get the file again"
        ) from error
