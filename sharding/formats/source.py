"""The annotation formats that a recipe can name; a new format is one more file and one more name here."""

from typing import Annotated

from pydantic import Field

from sharding.formats.coco import CocoFormat
from sharding.formats.drawn import DrawnFormat
from sharding.formats.lsp import LspFormat

Source = Annotated[CocoFormat | DrawnFormat | LspFormat, Field(discriminator="name")]
