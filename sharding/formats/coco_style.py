"""Your own data in COCO's form: any category, any keypoints."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.load import InputError
from configs.settings import settings
from sharding.detections import Detections
from sharding.formats.coco import read_coco
from sharding.record import Annotations
from sharding.skeleton import Skeleton, from_category

NamePair = tuple[str, str]
Sigma = Annotated[float, Field(gt=0)]


@settings
class CocoStyleFormat:
    """A COCO keypoint file of your own; what its category does not say, or says wrongly, is given here."""

    name: Literal["coco-style"] = "coco-style"
    annotations: Path
    """The JSON file: `images`, `annotations` and `categories`; all else may be missing."""
    images: str | Path
    """The photos that the `file_name` of each image is relative to: a folder, a zip file or a URL."""
    boxes: Detections | None = None
    """For a split that is scored: a detector's boxes instead of the annotated ones."""
    category: str | None = None
    """Name of the category to read, where several have keypoints."""
    keypoints: tuple[str, ...] | None = None
    """Names of the keypoints in the order of the annotations; without it those of the category."""
    flip_pairs: tuple[NamePair, ...] | None = None
    """Pairs of names that trade places in a mirror image; without it they follow from left and right in the
    names."""
    bones: tuple[NamePair, ...] | None = None
    """Pairs of names that a picture joins with a line; without it the category's `skeleton`."""
    sigmas: Sigma | tuple[Sigma, ...] | None = None
    """OKS sigmas, one for each keypoint or one for all; without it the category's; without those COCO's
    for keypoints of its names and 0.05 for others."""

    def read(self) -> Annotations:
        """The annotated things by COCO's rule, in the order of `images`, then of the annotations.

        A missing area is 0.53 of the box. Raises InputError as `read_coco`, and for settings that do not fit
        the keypoints.
        """
        describe = partial(_describe, self)
        return read_coco(
            self.annotations,
            self.images,
            describe=describe,
            category_name=self.category,
            boxes=self.boxes,
        )


def _describe(cfg: CocoStyleFormat, category: dict[str, Any], where: str) -> Skeleton:
    """The skeleton of the file's category, with what the settings say in place of what it says."""
    said = dict(category)
    if cfg.keypoints is not None:
        said["keypoints"] = list(cfg.keypoints)
    names = said.get("keypoints")
    if not isinstance(names, list) or not names:
        raise InputError(
            f"{where}: category {category.get('name')!r} names no keypoints: add `keypoints` to it, or give "
            "source.keypoints"
        )
    if cfg.flip_pairs is not None:
        said["flip_pairs"] = _indices(cfg.flip_pairs, names, f"{where}: source.flip_pairs")
    if cfg.bones is not None:
        said["skeleton"] = [(a + 1, b + 1) for a, b in _indices(cfg.bones, names, f"{where}: source.bones")]
    if cfg.sigmas is not None:
        sigmas = cfg.sigmas if isinstance(cfg.sigmas, tuple) else (cfg.sigmas,) * len(names)
        if len(sigmas) != len(names):
            raise InputError(
                f"{where}: source.sigmas has {len(sigmas)} numbers for {len(names)} keypoints: give one for "
                "each, or one for all"
            )
        said["sigmas"] = sigmas
    return from_category(said, where=where)


def _indices(pairs: tuple[NamePair, ...], names: list[str], where: str) -> list[tuple[int, int]]:
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            raise InputError(
                f"{where} has {name!r}, which is no keypoint: take one of {', '.join(map(str, names))}"
            )
    return [(names.index(a), names.index(b)) for a, b in pairs]
