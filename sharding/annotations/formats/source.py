"""The annotation formats that a recipe can name. A new format is one more file, and one more name here."""

from typing import Annotated

from pydantic import Field

from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.formats.mpii import MpiiFormat
from semipose.sharding.annotations.formats.yolo_pose import YoloPoseFormat

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
