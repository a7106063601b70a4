"""The one decorator that makes a class of settings."""

from dataclasses import field
from typing import TypeVar, cast

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, Field))
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that pydantic checks strictly.

    Unknown keys, nan and infinities are refused; the string under a field is its meaning in `--help`.
    """
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
    return cast("type[T]", dataclass(frozen=True, kw_only=True, config=config)(cls))
