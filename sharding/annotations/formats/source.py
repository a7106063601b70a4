"""The annotation formats that a recipe can name; a new format is one more file and one more name here."""

from typing import Annotated

from pydantic import Field

from sharding.annotations.formats.aic import AicFormat
from sharding.annotations.formats.coco import CocoFormat
from sharding.annotations.formats.coco_style import CocoStyleFormat
from sharding.annotations.formats.crowdpose import CrowdPoseFormat
from sharding.annotations.formats.drawn import DrawnFormat
from sharding.annotations.formats.folder import FolderFormat
from sharding.annotations.formats.lsp import LspFormat
from sharding.annotations.formats.mpii import MpiiFormat
from sharding.annotations.formats.yolo_pose import YoloPoseFormat

Source = Annotated[
    CocoFormat
    | MpiiFormat
    | AicFormat
    | CrowdPoseFormat
    | LspFormat
    | CocoStyleFormat
    | YoloPoseFormat
    | FolderFormat
    | DrawnFormat,
    Field(discriminator="name"),
]
