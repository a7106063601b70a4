"""The settings of `semipose teach`."""

from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.settings import settings


@settings
class TeachSettings:
    """Label the people of shards by a model."""

    keypoints: tuple[str, ...] | None = None
    """Which keypoints of the shards are labelled; null: all that the model knows. The others have v = 0."""
    names: tuple[str, ...] | None = None
    """The keypoints of a file of results, in its order; null: those that the file names, otherwise those of
    the shards, or COCO's if it has 17."""
    min_confidence: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """A keypoint whose confidence is lower is not labelled: v = 0."""
    revision: str | None = None
    """The revision of the model: which one is downloaded, and for the records."""
    licence: str | None = None
    """The licence of the model, for the records; null: the one that the model states."""
    network: str | None = None
    """The name of one of the networks of a run, such as average; null: the final one."""
    device: str = "auto"
    """auto (a GPU if there is one), cuda, cuda:1, mps or cpu."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the network's pass."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """People in one pass of the network."""
    flip_test: bool = True
    """Average over each view and its mirror image."""
