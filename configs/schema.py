"""What a class of settings looks like: fields, plug-ins, and the kinds of values in plain words."""

import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def is_settings(kind: Any) -> bool:
    """Whether it is a class made by `settings`."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_fields__")


def fields(cls: type) -> dict[str, FieldInfo]:
    """The fields of a class made by `settings`, in order."""
    found: dict[str, FieldInfo] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return found


def field_kind(field: FieldInfo) -> Any:
    """The type of a field with its limits (`Gt(0)`) put back."""
    return _with_limits(field.annotation, tuple(field.metadata))


def _with_limits(kind: Any, limits: tuple[Any, ...]) -> Any:
    parts = (kind, *limits)
    return Annotated[parts] if limits and kind is not type(None) else kind


def arms(kind: Any) -> list[Any]:
    """The members of a union (or the one type), without None and without `Annotated`."""
    if get_origin(kind) is Annotated:
        return arms(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [arm for member in get_args(kind) for arm in arms(member) if arm is not type(None)]
    return [kind]


def plugins(kind: Any) -> dict[str, type]:
    """The classes of a union of plug-ins by their `name`; empty when `kind` is no such union."""
    members = arms(kind)
    if len(members) < 2 or not all(is_settings(member) and "name" in fields(member) for member in members):
        return {}
    return {name: member for member in members for name in get_args(fields(member)["name"].annotation)}


def settings_class(kind: Any, value: Any) -> type | None:
    """The class of settings that a mapping given for `kind` would become, None where there is none."""
    by_name = plugins(kind)
    if by_name:
        name = value.get("name") if isinstance(value, Mapping) else None
        return by_name.get(name) if isinstance(name, str) else None
    found = [arm for arm in arms(kind) if is_settings(arm)]
    return found[0] if len(found) == 1 else None


def takes_text(kind: Any) -> bool:
    """Whether any text, or any path, is a value of `kind`."""
    return any(arm in (str, Path) for arm in arms(kind))


def takes_beside_text(kind: Any, value: Any) -> bool:
    """Whether a plain value that is not text (a list, a number, null, ...) has one of the types in `kind`."""
    if get_origin(kind) is Annotated:
        return takes_beside_text(get_args(kind)[0], value)
    if get_origin(kind) in (Union, types.UnionType):
        return any(takes_beside_text(member, value) for member in get_args(kind))
    match value:
        case None | bool():
            return kind is type(value)
        case int() | float():
            return kind in (type(value), float)
        case list():
            return get_origin(kind) is tuple
        case dict():
            return get_origin(kind) is dict or is_settings(kind)
    return False


def holds_settings(kind: Any) -> bool:
    """Whether a value of `kind` is one mapping of settings, a plug-in or not."""
    return any(is_settings(arm) for arm in arms(kind))


def element_kind(kind: Any, index: str | int) -> Any:
    """The type of one element of a tuple (by its index) or of a dict (by its key); Any where unknown."""
    for arm in arms(kind):
        arguments = get_args(arm)
        if get_origin(arm) is dict and isinstance(index, str):
            return arguments[1]
        if get_origin(arm) is tuple and isinstance(index, int):
            if arguments[-1] is Ellipsis:
                return arguments[0]
            return arguments[index] if index < len(arguments) else Any
    return Any


def plain(value: Any) -> Any:
    """Settings as dicts, lists, text, numbers, booleans and None."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def plugin_classes(kind: Any) -> dict[type, str]:
    """The classes of a union of plug-ins, each with its name, or names as `image | feature`."""
    by_name = plugins(kind)
    return {cls: " | ".join(name for name in by_name if by_name[name] is cls) for cls in by_name.values()}


def default_of(field: FieldInfo) -> Any:
    """The default of a field as plain values; None also where it has none (see `FieldInfo.is_required`)."""
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    return plain(value)


def describe(kind: Any) -> str:
    """What fits `kind`, in plain words: `a whole number >= 1 or null`."""
    if get_origin(kind) is Annotated:
        inner, *limits = get_args(kind)
        if get_origin(inner) in (Union, types.UnionType) and not plugins(inner):
            inner = Union[tuple(_with_limits(member, tuple(limits)) for member in get_args(inner))]  # noqa: UP007
            return describe(inner)
        return " ".join([describe(inner), *_limit_words(limits)])
    if get_origin(kind) in (Union, types.UnionType):
        by_name = plugins(kind)
        words = [f"a mapping with a `name` ({', '.join(by_name)})"] if by_name else []
        words += [describe(member) for member in get_args(kind) if not by_name or member is type(None)]
        return " or ".join(words)
    if get_origin(kind) is Literal:
        return " or ".join(
            repr(choice) if isinstance(choice, str) else str(choice) for choice in get_args(kind)
        )
    if get_origin(kind) is tuple:
        return _describe_list(get_args(kind))
    if get_origin(kind) is dict:
        return f"a mapping of text to {describe(get_args(kind)[1])}"
    if is_settings(kind):
        return "a mapping of settings"
    return _PLAIN.get(kind) or (
        "any value" if kind is Any else f"a {getattr(kind, '__name__', kind)}".lower()
    )


def _describe_list(elements: tuple[Any, ...]) -> str:
    if elements[-1] is Ellipsis:
        return f"a list (each {describe(elements[0])})"
    words = [describe(element) for element in elements]
    if len(set(words)) == 1:
        return f"a list of {len(words)} (each {words[0]})"
    return f"a list of {len(words)} ({', '.join(words)})"


def _limit_words(limits: Iterable[Any]) -> list[str]:
    words = []
    for limit in limits:
        match limit:
            case FieldInfo():
                words += _limit_words(limit.metadata)
            case Gt():
                words.append(f"> {limit.gt}")
            case Ge():
                words.append(f">= {limit.ge}")
            case Lt():
                words.append(f"< {limit.lt}")
            case Le():
                words.append(f"<= {limit.le}")
            case MultipleOf():
                words.append(f"that is a multiple of {limit.multiple_of}")
            case MinLen():
                words.append(f"of length >= {limit.min_length}")
            case MaxLen():
                words.append(f"of length <= {limit.max_length}")
    return words
