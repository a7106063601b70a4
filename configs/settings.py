"""The one decorator that makes a class of settings."""

from dataclasses import field
from typing import TypeVar, cast

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, Field))
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that pydantic checks strictly.

    Unknown keys, nan and infinities are refused; the string under a field is its meaning in `--help`.
    """
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
    made = dataclass(frozen=True, kw_only=True, config=config)(cls)
    # Of the strings under the fields pydantic reads those of the class itself, not those of its bases.
    inherited: dict[str, FieldInfo] = {}
    for base in reversed(cls.__mro__[1:]):
        inherited |= getattr(base, "__pydantic_fields__", {})
    for name, info in made.__pydantic_fields__.items():
        if info.description is None and name in inherited:
            info.description = inherited[name].description
    return cast("type[T]", made)
