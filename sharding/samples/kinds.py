"""The kinds of samples by name. A new one is a file beside person.py, its name here and in settings.py."""

from collections.abc import Mapping

from semipose.sharding.samples.person import PersonKind
from semipose.sharding.samples.photo import PhotoKind
from semipose.sharding.samples.sample import SampleKind

KINDS: Mapping[str, SampleKind] = {kind.name: kind for kind in (PersonKind(), PhotoKind())}
