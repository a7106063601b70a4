"""Settings that replace what a file says about its keypoints."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.category import from_category
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.skeleton import Skeleton

NamePair = tuple[str, str]
Sigma = Annotated[float, Field(gt=0)]


@settings
class OwnKeypoints:
    """Which category of a file is read, and what its keypoints are."""

    category: str | tuple[str, ...] | None = None
    """Name of the category to read, or a list of names to read together; null: the only one with keypoints,
    the one named `person`, or all of them if all have the same keypoints."""
    keypoints: tuple[str, ...] | None = None
    """Names of the keypoints in the order of the annotations; null: those of the category."""
    flip_pairs: tuple[NamePair, ...] | None = None
    """Pairs of names that a mirror image exchanges; null: those of the category, or what follows from left
    and right in the names."""
    bones: tuple[NamePair, ...] | None = None
    """Pairs of names that pictures join with a line; null: the `skeleton` of the category."""
    sigmas: Sigma | tuple[Sigma, ...] | None = None
    """OKS sigmas, one per keypoint or one for all; null: those of the category, or if it has none, those of
    COCO and LSP for keypoints with their names, in any spelling, and 0.05 for others."""

    @property
    def category_names(self) -> tuple[str, ...] | None:
        """The names of `category`; None if it is left out."""
        return (self.category,) if isinstance(self.category, str) else self.category

    def describe(self, category: dict[str, Any], where: str, findings: Findings) -> Skeleton:
        """The skeleton of the file's category, with the settings in place of what the file says.

        where: the file, for the message. Raises InputError for settings that do not fit the keypoints.
        """
        said = dict(category)
        if self.keypoints is not None:
            said["keypoints"] = list(self.keypoints)
            said["skeleton"] = _kept_bones(category, self.keypoints)
        names = said.get("keypoints")
        if not names or not isinstance(names, list):
            what = "names no keypoints" if not names else "has `keypoints` that are no list of names"
            raise InputError(
                f"{where}: category {category.get('name')!r} {what}: add `keypoints` to it as a list, or "
                "give source.keypoints"
            )
        if self.flip_pairs is not None:
            said["flip_pairs"] = _indices(self.flip_pairs, names, f"{where}: source.flip_pairs")
        if self.bones is not None:
            said["skeleton"] = ()
        if self.sigmas is not None:
            sigmas = self.sigmas if isinstance(self.sigmas, tuple) else (self.sigmas,) * len(names)
            if len(sigmas) != len(names):
                raise InputError(
                    f"{where}: source.sigmas has {len(sigmas)} numbers for {len(names)} keypoints: give one "
                    "for each, or one for all"
                )
            said["sigmas"] = sigmas
        skeleton = from_category(said, where=where, findings=findings)
        if self.bones is not None:
            bones = _indices(self.bones, list(skeleton.names), f"{where}: source.bones")
            skeleton = replace(skeleton, bones=tuple(bones))
        return skeleton


def _kept_bones(category: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The file's bones among the keypoints that the recipe names: by index, or by name if it names others.

    Bones that fit neither way are left as they are, for `from_category` to judge.
    """
    file_names = category.get("keypoints")
    bones = category.get("skeleton") or ()
    if not isinstance(file_names, list) or not file_names or len(file_names) == len(names):
        return bones
    try:
        ends = [(file_names[int(a) - 1], file_names[int(b) - 1]) for a, b in bones if min(a, b) > 0]
    except (TypeError, ValueError, IndexError):
        return bones
    return [(names.index(a) + 1, names.index(b) + 1) for a, b in ends if a in names and b in names]


def _indices(pairs: tuple[NamePair, ...], names: list[str], where: str) -> list[tuple[int, int]]:
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            raise InputError(
                f"{where} has {name!r}, which is no keypoint: use one of {', '.join(map(str, names))}"
            )
    return [(names.index(a), names.index(b)) for a, b in pairs]
