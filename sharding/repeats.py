"""One photo or one person under several ids: what stands twice is trained on twice and scored twice."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain

from sharding.findings import Fault
from sharding.record import Annotations, Person, photo_key

SAME_PHOTO = Fault(
    "several image ids name one photo file",
    "kept",
    "give each photo one id and each frame a file of its own; a split keeps them on one side",
    "image",
    is_identity=False,
)
SAME_PERSON = Fault(
    "the person stands in the file again (equal photo, box and joints)",
    "kept",
    "remove the repeated rows: they are trained on twice, and found once they count as missed once",
    is_identity=False,
)


def note_repeats(annotations: Annotations) -> None:
    """Add to the findings: image ids whose photo another id names too, persons equal to an earlier one."""
    findings = annotations.findings
    people = annotations.persons if annotations.annotated is None else annotations.annotated
    names = {
        person.image_id: person.file_name
        for person in chain(annotations.persons, annotations.annotated or ())
    }
    names |= {photo.id: photo.file_name for photo in annotations.empty_photos}
    keys = {image_id: photo_key(name) for image_id, name in names.items()}
    ids_of: dict[str, list[int]] = defaultdict(list)
    for image_id, key in keys.items():
        ids_of[key].append(image_id)
    for name, image_ids in ids_of.items():
        for image_id in image_ids if len(image_ids) > 1 else ():
            findings.add(SAME_PHOTO, image_id, f"{', '.join(map(str, image_ids[:6]))} are {name}")
    for person, first in _repeated(people, keys):
        findings.add(SAME_PERSON, person.id, f"equal to {first.id}")
    findings.warn_if_many(SAME_PHOTO, len(names))
    findings.warn_if_many(SAME_PERSON, len(people))


def _repeated(people: Iterable[Person], keys: Mapping[int, str]) -> Iterable[tuple[Person, Person]]:
    """Each person that equals an earlier one, with that one. keys: the `photo_key` of each image id."""
    first_of: dict[int, Person] = {}
    for person in people:
        content = hash((keys[person.image_id], person.box_xywh, person.keypoints.tobytes()))
        first = first_of.setdefault(content, person)
        if first is not person:
            yield person, first
