"""What every benchmark leaves: its rows, what they were taken on, and the one schema of the file."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from semipose.configs.load import InputError
from semipose.models.files import write_json


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant's speed over all rounds.

    group: rows of one group do the same work or a part of it. unit: what is counted, more is better.
    base: the row of the group that it is compared with, None where there is none.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    group: str
    unit: str
    median: float
    iqr: tuple[float, float]
    """A quarter of the rounds is below the first, a quarter above the second."""
    rounds: tuple[float, ...]
    base: str | None = None
    times_base: float | None = None
    """Its median over that of the base."""
    facts: dict[str, float] = field(default_factory=dict)
    """Other numbers of the same measurement; each name ends with its unit or says what it is a share of."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target of the project and what this run measured of it; None where it could not be measured."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    what: str
    asked: str
    measured: str | None
    is_met: bool | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run of a benchmark."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    bench: Literal["loader", "loader-growth", "steps", "step-growth", "shards", "photos", "predict"]
    machine: dict[str, Any]
    """See `machine.describe_machine`."""
    settings: dict[str, Any]
    data: dict[str, Any]
    """People, keypoints and where they come from."""
    rows: tuple[Row, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    """Rows that could not be measured here, each with the reason."""
    facts: dict[str, float] = field(default_factory=dict)
    """Limits of the machine, measured in the same run."""
    targets: tuple[Target, ...] = ()

    def row(self, name: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def ratio(self, name: str, base: str) -> float | None:
        """Median of one row over that of another; None where either was not measured."""
        upper, lower = self.row(name), self.row(base)
        return upper.median / lower.median if upper and lower else None


def make_row(
    name: str,
    rounds: Sequence[float],
    *,
    group: str,
    unit: str,
    facts: dict[str, float] | None = None,
) -> Row:
    """A row of the speeds of its rounds, not yet compared with another."""
    low, high = np.percentile(rounds, [25, 75])
    return Row(
        name=name,
        group=group,
        unit=unit,
        median=_rounded(float(np.median(rounds))),
        iqr=(_rounded(float(low)), _rounded(float(high))),
        rounds=tuple(_rounded(rate) for rate in rounds),
        facts={key: _rounded(value) for key, value in (facts or {}).items()},
    )


def compare(row: Row, base: Row | None) -> Row:
    """The row beside the one that it is compared with."""
    if base is None:
        return row
    return Row(**{**asdict(row), "base": base.name, "times_base": round(row.median / base.median, 3)})


def beside_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Each row compared with the first of its group: if the cost is linear, that is 1 everywhere."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.group, row)
    return tuple(compare(row, first[row.group]) for row in rows)


def write_result(path: Path, result: Result) -> None:
    """Write the result as JSON, whole or not at all."""
    write_json(path, asdict(result))


def read_result(path: Path) -> Result:
    """The result of a file. Raises InputError where it is absent or does not keep to the schema."""
    try:
        return TypeAdapter(Result).validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: no result can be read here: run `make bench` first") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path}: {key}: {first['msg']}: this is no result of a benchmark; run it again"
        ) from error


def to_result(content: dict[str, Any]) -> Result:
    """The result that `asdict` made `content` of; other keys of the file that holds it are left out."""
    fields = {field.name for field in dataclasses.fields(Result)}
    return TypeAdapter(Result).validate_python({k: v for k, v in content.items() if k in fields})


def short(value: float) -> str:
    """Three digits, but never fewer than those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rounded(value: float) -> float:
    """Five digits: no timing is better."""
    return float(f"{value:.5g}")
