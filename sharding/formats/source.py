"""The annotation formats that a recipe can name; a new format is one more file and one more name here."""

from typing import Annotated

from pydantic import Field

from sharding.formats.aic import AicFormat
from sharding.formats.coco import CocoFormat
from sharding.formats.coco_style import CocoStyleFormat
from sharding.formats.crowdpose import CrowdPoseFormat
from sharding.formats.drawn import DrawnFormat
from sharding.formats.folder import FolderFormat
from sharding.formats.lsp import LspFormat
from sharding.formats.mpii import MpiiFormat
from sharding.formats.yolo_pose import YoloPoseFormat

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
