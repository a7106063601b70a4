"""One readable training step per published method, named once in the union below."""

from typing import Annotated

from pydantic import Field

from training.methods.single import SingleSettings
from training.methods.supervised import SupervisedSettings

MethodSettings = Annotated[SupervisedSettings | SingleSettings, Field(discriminator="name")]
