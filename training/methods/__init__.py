"""The published methods, one readable training step each; the union below names them."""

from typing import Annotated

from pydantic import Field

from training.methods.detector_free import DetectorFreeSettings
from training.methods.double_match import DoubleMatchSettings
from training.methods.dual import DualSettings
from training.methods.pseudo_label import PseudoLabelSettings
from training.methods.single import SingleSettings
from training.methods.supervised import SupervisedSettings
from training.methods.triple import TripleSettings

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
