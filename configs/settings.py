"""The one decorator that makes a class of settings."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type) -> type:
    """Make `cls` a frozen, keyword-only dataclass that pydantic checks strictly.

    Unknown keys are refused, and the string under a field is its meaning in `--help`.
    """
    config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    return dataclass(frozen=True, kw_only=True, config=config)(cls)
