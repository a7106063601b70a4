"""Which categories of a COCO file are read, and what happens to rows of other categories."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from semipose.configs.load import InputError
from semipose.sharding.annotations.category import whole
from semipose.sharding.annotations.findings import Fault, Findings

Category = dict[str, Any]
"""A row of `categories`."""

OTHER_CATEGORY = Fault("another category", "dropped", "")
READ_TOGETHER = Fault(
    "categories with the same keypoints, read together",
    "kept",
    "name one to read it alone (source.name=coco-style source.category=NAME)",
    "category",
)
NO_CATEGORY_ID = Fault(
    "no category_id, although the file lists several categories", "dropped", "add category_id to the row"
)
CATEGORY_ID_ADDED = Fault("no category_id, taken as the only category of the file", "corrected", "")
_MOST_UNLISTED = 8
"""At most so many unknown ids are named one by one; a damaged file may have as many as rows."""
_NO_PEOPLE = (
    "the file has boxes or single points, such as a category for each joint, and not people with their "
    "keypoints: export COCO keypoints, with one category whose `keypoints` names the joints"
)
_READ_ONE = "name the one to read (source.name=coco-style source.category=NAME)"


class Categories(NamedTuple):
    """The categories that are read, and the ids of all that the file lists."""

    chosen: tuple[Category, ...]
    chosen_ids: frozenset[int]
    listed_ids: frozenset[int]
    unlisted: set[int]
    """Ids of rows that the file does not list, as far as they were named."""

    @property
    def are_several(self) -> bool:
        """Whether people of more than one category are read."""
        return len(self.chosen) > 1

    def fault_of(self, category_id: int | None) -> Fault | None:
        """Why a row of this category is not read; None if it is."""
        if category_id in self.chosen_ids:
            return None
        if category_id is None:
            return None if len(self.listed_ids) == 1 else NO_CATEGORY_ID
        if category_id in self.listed_ids:
            return OTHER_CATEGORY
        if category_id not in self.unlisted and len(self.unlisted) >= _MOST_UNLISTED:
            return Fault("other ids that `categories` does not list", "dropped", "correct the ids")
        self.unlisted.add(category_id)
        listed = ", ".join(map(str, sorted(self.listed_ids)[:5])) + (
            ", ..." if len(self.listed_ids) > 5 else ""
        )
        return Fault(
            f"category_id {category_id} is not listed in `categories` (which has {listed})",
            "dropped",
            "correct category_id, or the id in `categories`",
        )


def choose_categories(
    categories: Sequence[Category],
    path: Path,
    names: Sequence[str] | None = None,
    *,
    has_own_keypoints: bool = False,
    has_keypoint_rows: bool = True,
) -> Categories:
    """The categories of those names; without names `person`, or all categories if they share their keypoints.

    has_own_keypoints: the recipe names the keypoints, so those of the categories need not be equal.
    has_keypoint_rows: whether any annotation has keypoints, for the message. Raises InputError if it
    is not clear which categories are meant.
    """
    rows = list({repr(row): row for row in categories}.values())  # rows listed again
    if not rows:
        raise InputError(
            f"{path}: `categories` is empty, so the keypoints are unknown: add the category, "
            "with `id`, `name` and `keypoints`"
        )
    able = [row for row in rows if row.get("keypoints")]
    chosen = _by_default(rows, able, path, has_keypoint_rows) if names is None else _named(rows, names, path)
    if len(chosen) > 1 and not has_own_keypoints and len({keypoint_names(row) for row in chosen}) > 1:
        if all(len(keypoint_names(row)) == 1 for row in chosen):
            raise InputError(
                f"{path}: each of its {len(chosen)} categories ({_listed(chosen)}) has one keypoint: "
                f"{_NO_PEOPLE}"
            )
        several = ", ".join(
            f"{row.get('name')!r} ({len(keypoint_names(row))} keypoints)" for row in chosen[:8]
        )
        raise InputError(
            f"{path}: the categories {several} have different keypoints, but only categories with the same "
            f"keypoints can be read together: {_READ_ONE}, or a list of some"
        )
    ids = [_id_of(row, path) if row in chosen else _id_or_none(row) for row in rows]
    twice = [number for number, count in Counter(ids).items() if count > 1 and number is not None]
    for number in twice:
        shared = [row for row, each in zip(rows, ids, strict=True) if each == number]
        if any(row in chosen for row in shared):
            raise InputError(
                f"{path}: the categories {_listed(shared)} have the same id, {number}: make the ids unique"
            )
    read = tuple({**row, "id": _id_of(row, path)} for row in chosen)
    return Categories(
        chosen=read,
        chosen_ids=frozenset(row["id"] for row in read),
        listed_ids=frozenset(number for number in ids if number is not None),
        unlisted=set(),
    )


def count_missing_id(category_id: int | None, record: int, findings: Findings) -> None:
    """A finding if a row that is read names no category."""
    if category_id is None:
        findings.add(CATEGORY_ID_ADDED, record)


def _by_default(
    rows: list[Category], able: list[Category], path: Path, has_keypoint_rows: bool
) -> list[Category]:
    if not able and len(rows) > 1:
        persons = [row for row in rows if row.get("name") == "person"]
        if len(persons) == 1 and has_keypoint_rows:
            return persons
        what = f"none of its {len(rows)} categories ({_listed(rows)}) has `keypoints`"
        if has_keypoint_rows:
            raise InputError(
                f"{path}: {what}: add the names to the category, or {_READ_ONE} and its keypoints "
                "(source.keypoints=[...])"
            )
        raise InputError(f"{path}: {what}, nor has any annotation: {_NO_PEOPLE}")
    able = able or rows
    persons = [row for row in able if row.get("name") == "person"]
    return persons if len(persons) == 1 else able


def _named(rows: list[Category], names: Sequence[str], path: Path) -> list[Category]:
    unknown = [name for name in names if all(str(row.get("name")) != name for row in rows)]
    if unknown or not names:
        wanted = ", ".join(map(repr, unknown)) or "nothing"
        raise InputError(
            f"{path}: source.category names {wanted}, but the categories are {_listed(rows)}: correct it"
        )
    return [row for row in rows if str(row.get("name")) in names]


def keypoint_names(category: Category) -> tuple[str, ...]:
    """The names of a category's keypoints; none where it has no list of them."""
    names = category.get("keypoints")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _id_of(category: Category, path: Path) -> int:
    number = _id_or_none(category)
    if number is None:
        found = f"the id {category['id']!r}" if "id" in category else "no id"
        raise InputError(
            f"{path}: category {category.get('name')!r} has {found}: give it a whole number, the category_id "
            "of its annotations"
        )
    return number


def _id_or_none(category: Category) -> int | None:
    try:
        return whole(category.get("id"))
    except ValueError:
        return None


def _listed(rows: Sequence[Category]) -> str:
    names = ", ".join(repr(row.get("name")) for row in rows[:8])
    return names + (f", ... ({len(rows)} in all)" if len(rows) > 8 else "")
