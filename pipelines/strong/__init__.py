"""Strong augmentations, which a path applies to the strong views in order, on their device.

An augmentation is a settings class with a literal `name` and a method `apply`; see scene.py and the README.
"""

from typing import Annotated

from pydantic import Field

from semipose.pipelines.strong.blur import Blur
from semipose.pipelines.strong.colour import Colour
from semipose.pipelines.strong.cut_occlude import CutOcclude
from semipose.pipelines.strong.holes import CutMix, Cutout
from semipose.pipelines.strong.joint_cutout import AdaptiveMasks, JointCutout, RandomMasks
from semipose.pipelines.strong.rand_augment import RandAugment
from semipose.pipelines.strong.scene import Scene

StrongAugmentation = Annotated[
    AdaptiveMasks | JointCutout | RandomMasks | CutOcclude | Cutout | CutMix | RandAugment | Colour | Blur,
    Field(discriminator="name"),
]
"""Any augmentation that a recipe can name."""

__all__ = [
    "AdaptiveMasks",
    "Blur",
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
