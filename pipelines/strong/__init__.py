"""Strong augmentations: parts that a path applies in order to the strong views, on their device.

A part is a settings class with a literal `name` and a method `apply`, as scene.py and the README tell.
"""

from typing import Annotated

from pydantic import Field

from pipelines.strong.joint_cutout import AdaptiveMasks, JointCutout
from pipelines.strong.scene import Scene

Part = Annotated[AdaptiveMasks | JointCutout, Field(discriminator="name")]

__all__ = ["AdaptiveMasks", "JointCutout", "Part", "Scene"]
