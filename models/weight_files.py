"""Files of safetensors, which cannot hold code: what is in them, or one sentence why they cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from semipose.configs.errors import InputError, one_line


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
