"""Everything that decides the bytes of a folder of shards, as two hashes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from semipose.sharding.annotations.record import Annotations
from semipose.sharding.settings import EXECUTION, BuildSettings


class Identity(NamedTuple):
    """Two builds with the same identity make the same bytes from the same photos."""

    annotations_sha256: str
    """Hash of everything that the format read, wherever its files are."""
    settings_sha256: str
    """Hash of the settings that decide the shards, given the annotations."""


def identify(settings: BuildSettings, annotations: Annotations) -> Identity:
    """The identity of a build."""
    outlines = annotations.outlines if settings.kind == "image" else {}  # no other kind stores masks
    return Identity(_hash_annotations(annotations, outlines), _hash_settings(settings))


def _hash_annotations(annotations: Annotations, outlines: Mapping[int, bytes]) -> str:
    digest = hashlib.sha256(json.dumps(asdict(annotations.skeleton)).encode())
    for person in (*annotations.persons, *(annotations.annotated or ())):
        facts: tuple[Any, ...] = (
            person.id,
            person.image_id,
            person.file_name,
            person.source_size_wh,
            person.box_xywh,
            person.area,
            person.head_xywh,
        )
        if (
            person.score is not None
        ):  # appended, so that shards made before there were scores stay what they are
            facts += (person.score,)
        if person.category_id is not None:
            facts += ("category", person.category_id)
        digest.update(repr(facts).encode())
        digest.update(person.keypoints.astype("<f4").tobytes())
    for photo in annotations.empty_photos:
        digest.update(repr((photo.id, photo.file_name, photo.size_wh)).encode())
    for row in annotations.ignored:
        digest.update(json.dumps(row).encode())
        digest.update(outlines.get(row["id"], b""))
    dropped = annotations.findings.counts("dropped", identity=True)
    noted = annotations.findings.counts("warned", "corrected", "kept", identity=True)
    digest.update(json.dumps([sorted(annotations.photo_facts.items()), dropped, noted]).encode())
    category = [annotations.category_id, annotations.category_name]
    if category != [1, "person"]:  # so that shards of the published sets stay what they are
        digest.update(json.dumps(category).encode())
    return digest.hexdigest()


def _hash_settings(settings: BuildSettings) -> str:
    values = TypeAdapter(BuildSettings).dump_python(settings, mode="json", exclude=set(EXECUTION))
    for name in ("split", "more_keypoints"):  # so that shards made before there were these stay what they are
        if not values[name]:
            del values[name]
    return hashlib.sha256(
        json.dumps([settings.sample_kind.format_version, values], sort_keys=True).encode()
    ).hexdigest()
