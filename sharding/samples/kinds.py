"""The kinds of samples by name. A new one is a file beside person.py, its name here and in settings.py."""

from collections.abc import Mapping

from sharding.samples.person import PersonKind
from sharding.samples.photo import PhotoKind
from sharding.samples.sample import SampleKind

KINDS: Mapping[str, SampleKind] = {kind.name: kind for kind in (PersonKind(), PhotoKind())}
