"""The published methods, one readable training step each; the union below names them."""

from typing import Annotated, get_args

from pydantic import Field

from semipose.training.methods.detector_free import DetectorFreeSettings
from semipose.training.methods.double_match import DoubleMatchSettings
from semipose.training.methods.dual import DualSettings
from semipose.training.methods.pseudo_label import PseudoLabelSettings
from semipose.training.methods.single import SingleSettings
from semipose.training.methods.supervised import SupervisedSettings
from semipose.training.methods.triple import TripleSettings

MethodSettings = Annotated[
    SupervisedSettings
    | PseudoLabelSettings
    | SingleSettings
    | DoubleMatchSettings
    | DualSettings
    | TripleSettings
    | DetectorFreeSettings,
    Field(discriminator="name"),
]
METHODS = get_args(get_args(MethodSettings)[0])
"""The settings classes of all methods."""
