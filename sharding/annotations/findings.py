"""Faults of a data set, by kind, with the records that have them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from semipose.configs.load import InputError

Effect = Literal["stops", "warned", "dropped", "corrected", "kept", "passed over"]
"""What happens to a record with the fault: it stops the build, stays with a warning, is left out, is
corrected, or stays. `passed over` is for files that are no records: neither the manifest nor the identity of
a build counts them. (The manifest counts all records with a fault, the identity those with
`Fault.is_identity`.)"""

_NAME_A_FORMAT = re.compile(r" \(with source\.name=coco-style\)|source\.name=coco-style ")
"""How cures say that a setting needs another format than COCO's own."""

MANY = 0.1
"""The share of records from which a note becomes a warning, because the whole file is probably wrong."""


def is_many(count: int, total: int) -> bool:
    """Whether so many records have a fault that it is no accident; a single record proves nothing."""
    return count >= max(min(2, total), MANY * total, 1)


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what is wrong, what happens to the record, and how to correct it."""

    what: str
    effect: Effect = "stops"
    cure: str = "correct it"
    subject: str = "annotation"
    """What the ids count: annotation, image, photo, category, keypoint."""
    is_identity: bool = True
    """Whether its count is part of the identity of a build. False for faults that follow from records and
    settings, which are part of the identity anyway: finding more of such faults must not change the identity
    of finished shards."""


@dataclass(eq=False)
class Finding:
    """The records of one fault in one file; `detail` is of the first, `cure` is that of this file."""

    fault: Fault
    cure: str
    detail: str = ""
    ids: list[int | str] = field(default_factory=list)


class Findings:
    """The faults of one annotation file and its photos, by kind, in the order of their first occurrence."""

    def __init__(self, file: object, *, has_own_settings: bool = False) -> None:
        """has_own_settings: whether the format itself has the settings for which cures name coco-style."""
        self.file = str(file)
        self._has_own_settings = has_own_settings
        self._by_fault: dict[Fault, Finding] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._by_fault.values())

    def add(self, fault: Fault, record: int | str, detail: str = "") -> None:
        """Note that `record` (an id, a file or a keypoint's name) has the fault."""
        finding = self._by_fault.get(fault)
        if finding is None:
            cure = _NAME_A_FORMAT.sub("", fault.cure) if self._has_own_settings else fault.cure
            finding = self._by_fault[fault] = Finding(fault, cure, detail)
        finding.ids.append(record)

    def ids(self, fault: Fault) -> list[int | str]:
        """The records with one fault, whether it is a warning or not."""
        finding = self._by_fault.get(fault) or self._by_fault.get(replace(fault, effect="warned"))
        return finding.ids if finding else []

    def warn_if_many(self, fault: Fault, total: int) -> None:
        """Turn a note into a warning if many records have it; `total`: the records that could have it."""
        finding = self._by_fault.get(fault)
        if finding is not None and is_many(len(finding.ids), total):
            share = f"{len(finding.ids):,} of {total:,}"
            detail = f"{share}; the first: {finding.detail}" if finding.detail else share
            self._put_instead(
                finding, Finding(replace(fault, effect="warned"), finding.cure, detail, finding.ids)
            )

    def leave_out(self, fault: Fault) -> None:
        """Let the records with a fault that stops be dropped."""
        finding = self._by_fault.get(fault)
        if finding is not None:
            self._put_instead(
                finding, Finding(replace(fault, effect="dropped"), "", finding.detail, finding.ids)
            )

    def _put_instead(self, old: Finding, new: Finding) -> None:
        in_order = (new if other is old else other for other in self)
        self._by_fault = {other.fault: other for other in in_order}

    def warnings(self) -> list[str]:
        """A sentence for each fault that is a warning."""
        return [sentence(self.file, finding) for finding in self if finding.fault.effect == "warned"]

    def why(self, *effects: Effect) -> str:
        """`6 box empty (correct bbox); 2 crowd`: the counts of these effects with their cures."""
        reasons = []
        for finding in self:
            if finding.fault.effect in effects:
                cure = f" ({finding.cure})" if finding.cure else ""
                reasons.append(f"{len(finding.ids)} {finding.fault.what}{cure}")
        return "; ".join(reasons)

    def counts(self, *effects: Effect, identity: bool = False) -> dict[str, int]:
        """How many records each fault of these effects has, by what it is; identity: see `Fault`."""
        counts: dict[str, int] = {}
        for finding in self:
            if identity and not finding.fault.is_identity:
                continue
            if finding.fault.effect in effects:
                what = finding.fault.what
                counts[what] = counts.get(what, 0) + len(finding.ids)
        return counts

    def raise_errors(self) -> None:
        """Raise InputError with one line for each kind of fault that stops, if there is any."""
        lines = [sentence(self.file, finding) for finding in self if finding.fault.effect == "stops"]
        if lines:
            raise InputError("\n".join(lines))

    def to_json(self) -> list[dict[str, Any]]:
        """Every kind with all its records, as plain JSON values."""
        return [
            {
                "file": self.file,
                "fault": finding.fault.what,
                "effect": finding.fault.effect,
                "subject": finding.fault.subject,
                "count": len(finding.ids),
                "ids": finding.ids,
                "detail": finding.detail,
                "cure": finding.cure,
            }
            for finding in self
        ]


def sentence(file: str, finding: Finding) -> str:
    """`FILE: annotation 11: what is wrong (detail; and 3 more: 12, 13, 14): the cure`."""
    fault, ids = finding.fault, finding.ids
    more = ""
    if len(ids) > 1:
        named = ", ".join(map(str, ids[1:6]))
        more = f"and {len(ids) - 1} more: {named}{', ...' if len(ids) > 6 else ''}"
    notes = "; ".join(note for note in (finding.detail, more) if note)
    return f"{file}: {fault.subject} {ids[0]}: {fault.what}{f' ({notes})' if notes else ''}: {finding.cure}"
