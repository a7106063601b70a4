"""Strong augmentations: parts that a path applies in order to the strong views, on their device.

A part is a settings class with a literal `name` and a method `apply`, as scene.py and the README tell.
"""

from typing import Annotated

from pydantic import Field

from pipelines.strong.colour import Colour
from pipelines.strong.cut_occlude import CutOcclude
from pipelines.strong.holes import CutMix, Cutout
from pipelines.strong.joint_cutout import AdaptiveMasks, JointCutout, RandomMasks
from pipelines.strong.rand_augment import RandAugment
from pipelines.strong.scene import Scene

StrongAugmentation = Annotated[
    AdaptiveMasks | JointCutout | RandomMasks | CutOcclude | Cutout | CutMix | RandAugment | Colour,
    Field(discriminator="name"),
]
"""Any part that a recipe can name."""

__all__ = [
    "AdaptiveMasks",
    "Colour",
    "CutMix",
    "CutOcclude",
    "Cutout",
    "JointCutout",
    "RandAugment",
    "RandomMasks",
    "Scene",
    "StrongAugmentation",
]
