"""A category of a COCO file as a keypoint set: what it says, what follows from its names, and what is odd."""

from collections import Counter
from dataclasses import replace
from typing import Any

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.flip_pairs import (
    Mirrors,
    Parts,
    find_mirrors,
    joined_name,
    plain_name,
    side_of,
)
from semipose.sharding.annotations.skeleton import COCO_17, DEFAULT_SIGMA, LSP_14, Skeleton


def _published_sigmas() -> dict[Parts | str, float]:
    """The sigmas of COCO and LSP by name, and by the name's letters alone."""
    sigmas: dict[Parts | str, float] = {}
    for skeleton in (LSP_14, COCO_17):
        for name, sigma in zip(skeleton.names, skeleton.sigmas, strict=True):
            sigmas[plain_name(name)] = sigmas[joined_name(name)] = sigma
    return sigmas


_PUBLISHED_SIGMAS = _published_sigmas()

UNMIRRORED = Fault(
    "no keypoint mirrors another, although the recipes mirror half of the views",
    "warned",
    "give source.flip_pairs (with source.name=coco-style), or source.flip_pairs=[] if that is right",
    "keypoint",
    is_identity=False,
)
LONELY = Fault(
    "the name seems to have a side, but no keypoint mirrors it",
    "warned",
    "correct the name, or give source.flip_pairs (with source.name=coco-style)",
    "keypoint",
    is_identity=False,
)
AGAINST_NAMES = Fault(
    "`flip_pairs` contradicts the names of the keypoints",
    cure="correct the pairs (source.flip_pairs, or `flip_pairs` of the category, which counts from 0), or "
    "the names (source.keypoints)",
    subject="keypoint",
)
LEFT_OUT = Fault(
    "the names mirror each other, but `flip_pairs` leaves the pair out",
    "kept",
    "add the pair to source.flip_pairs, unless it is meant so",
    "keypoint",
    is_identity=False,
)
BONES_FROM_ZERO = Fault(
    "`skeleton` counts keypoints from 0 where COCO counts from 1; read so",
    "corrected",
    "nothing, if the bones on the sheet are right; otherwise give source.bones (with source.name=coco-style)",
    "category",
)
BAD_BONES = Fault(
    "`skeleton` does not fit the keypoints, so that pictures show no bones",
    "kept",
    "give source.bones as pairs of names (with source.name=coco-style), or source.bones=[] for none",
    "category",
    is_identity=False,
)


def from_category(category: dict[str, Any], *, where: str, findings: Findings | None = None) -> Skeleton:
    """The skeleton that a COCO category describes.

    Reads `keypoints` (names) and `skeleton` (bones, counted from 1); two keys beyond COCO's own are optional:
    `sigmas` (K numbers; without it a keypoint of a published name, however it is spelt, gets its published
    sigma and any other `DEFAULT_SIGMA`) and `flip_pairs` (pairs of 0-based indices or of names; without it
    they follow from the names, see `sharding.annotations.flip_pairs`). where: the file, for the message.
    findings: collects faults of pairs and bones; without it, faults that stop are raised and others are
    ignored. Raises InputError for a category that is no keypoint set.
    """
    category_name = category.get("name")
    where = f"{where}: category {category_name!r}"
    own_findings = Findings(where) if findings is None else findings
    names = _names(category, where)
    pairs = _flip_pairs(category, names, where, own_findings)
    try:
        skeleton = Skeleton(names=names, flip_pairs=pairs, bones=(), sigmas=_sigmas(category, names, pairs))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}: correct `flip_pairs` and `sigmas` of the category") from error
    if findings is None:
        own_findings.raise_errors()
    bones = _bones(category, skeleton, own_findings)
    return replace(skeleton, bones=bones)


def _names(category: dict[str, Any], where: str) -> tuple[str, ...]:
    """The names of the keypoints. Raises InputError if they do not name each keypoint."""
    cure = "correct `keypoints`, or name them in the recipe (source.name=coco-style source.keypoints=[...])"
    found = category.get("keypoints")
    if not found:
        raise InputError(f"{where} names no keypoints: {cure}")
    if not isinstance(found, list | tuple):
        raise InputError(f"{where}: `keypoints` is no list of names: {cure}")
    names = tuple(str(name).strip() if isinstance(name, str | int) else "" for name in found)
    nameless = [number for number, name in enumerate(names, start=1) if not name]
    if nameless:
        which = ", ".join(map(str, nameless[:5])) + (", ..." if len(nameless) > 5 else "")
        what = (
            "an empty text"
            if found[nameless[0] - 1] == ""
            else f"{found[nameless[0] - 1]!r}, which is no name"
        )
        raise InputError(
            f"{where}: {len(nameless)} of {len(names)} keypoints have no name (number {which}; the first is "
            f"{what}): {cure}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"{where}: keypoint names must be distinct, but {', '.join(map(repr, twice[:5]))} "
            f"{'occur' if twice[1:] else 'occurs'} more than once: {cure}"
        )
    return names


def _flip_pairs(
    category: dict[str, Any], names: tuple[str, ...], where: str, findings: Findings
) -> tuple[tuple[int, int], ...]:
    """The pairs that the category gives, compared with its names; without them, those of the names."""
    mirrors = find_mirrors(names)
    given = category.get("flip_pairs")
    if given is None:
        if mirrors.refused:
            raise InputError(
                f"{where}: {mirrors.refused[0]}: give `flip_pairs` (in the category, "
                "or in the recipe with source.name=coco-style source.flip_pairs=[[...], ...])"
            )
        for keypoint in mirrors.lonely:
            findings.add(LONELY, names[keypoint])
        if not mirrors.pairs and len(names) > 1:
            for name in names:
                findings.add(UNMIRRORED, name)
        return mirrors.pairs
    cure = "correct it, or give source.flip_pairs (with source.name=coco-style)"
    try:
        pairs = tuple((_index_of(a, names), _index_of(b, names)) for a, b in given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: `flip_pairs` is no list of pairs of indices or names ({error}): {cure}"
        ) from error
    numbers = [keypoint for pair in pairs for keypoint in pair]
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(names):
        raise InputError(
            f"{where}: `flip_pairs` holds {min(numbers)} to {max(numbers)}, but counts the {len(names)} "
            f"keypoints from 0: {cure}"
        )
    _hold_against_names(pairs, names, mirrors, findings)
    return pairs


def _index_of(keypoint: Any, names: tuple[str, ...]) -> int:
    """The index of a keypoint that is given by index or by name."""
    if keypoint in names:
        return names.index(keypoint)
    try:
        return whole(keypoint)
    except ValueError as error:
        raise ValueError(f"{keypoint!r} is not a keypoint") from error


def _hold_against_names(
    pairs: tuple[tuple[int, int], ...], names: tuple[str, ...], mirrors: Mirrors, findings: Findings
) -> None:
    """Add findings if the given pairs are not those that follow from the names."""
    by_name = {a: b for pair in mirrors.pairs for a, b in (pair, pair[::-1]) if a in mirrors.certain}
    for pair in pairs:
        sides = [side_of(names[keypoint]) if keypoint in mirrors.certain else None for keypoint in pair]
        others = [names[by_name[a]] for a, b in (pair, pair[::-1]) if by_name.get(a, b) != b]
        if others or (sides[0] is not None and sides[0] == sides[1]):
            reason = f"the names pair it with {others[0]}" if others else f"both are {sides[0]}"
            findings.add(AGAINST_NAMES, "/".join(names[keypoint] for keypoint in pair), reason)
    paired = {keypoint for pair in pairs for keypoint in pair}
    for pair in mirrors.pairs:
        if not paired.intersection(pair):
            findings.add(LEFT_OUT, "/".join(names[keypoint] for keypoint in pair))


def _sigmas(
    category: dict[str, Any], names: tuple[str, ...], pairs: tuple[tuple[int, int], ...]
) -> tuple[float, ...]:
    if category.get("sigmas"):
        return tuple(float(sigma) for sigma in category["sigmas"])
    paired = {keypoint for pair in pairs for keypoint in pair}
    return tuple(
        DEFAULT_SIGMA if sigma is None else sigma
        for sigma in (published_sigma(name, is_paired=index in paired) for index, name in enumerate(names))
    )


def published_sigma(name: str, *, is_paired: bool) -> float | None:
    """COCO's or LSP's OKS sigma for a keypoint of this name, however it is spelt; None where there is none.

    is_paired: whether the keypoint has a mirror image: only then may `lknee` be a left knee.
    """
    sigma = _PUBLISHED_SIGMAS.get(plain_name(name))
    return _PUBLISHED_SIGMAS.get(joined_name(name)) if sigma is None and is_paired else sigma


def _bones(category: dict[str, Any], skeleton: Skeleton, findings: Findings) -> tuple[tuple[int, int], ...]:
    """The bones of the category's `skeleton`; none, with a finding, where they do not fit the keypoints.

    COCO counts from 1. Many files count from 0, which shows where they hold a 0, or where the last keypoint
    has no bone and the bones are the same on both sides only if read so.
    """
    count = skeleton.num_keypoints
    try:
        found = [(whole(a), whole(b)) for a, b in category.get("skeleton") or ()]
    except (TypeError, ValueError):
        found = [(-1, -1)]
    numbers = [number for bone in found for number in bone]
    if not numbers:
        return ()
    from_one = tuple((a - 1, b - 1) for a, b in found)
    from_zero = tuple(found)
    is_from_zero = max(numbers) < count and (
        min(numbers) == 0
        or (_is_symmetric(from_zero, skeleton) and not _is_symmetric(from_one, skeleton) and min(numbers) > 0)
    )
    name = str(category.get("name"))
    if is_from_zero:
        findings.add(BONES_FROM_ZERO, name)
        return from_zero
    if min(numbers) < 1 or max(numbers) > count:
        detail = (
            f"it holds {min(numbers)} to {max(numbers)} for {count} keypoints" if min(numbers) >= 0 else ""
        )
        findings.add(BAD_BONES, name, detail)
        return ()
    return from_one


def _is_symmetric(bones: tuple[tuple[int, int], ...], skeleton: Skeleton) -> bool:
    """Whether the mirror image of every bone is a bone, and that of some is another one."""
    flipped = skeleton.flip_order
    edges = {frozenset(bone) for bone in bones}
    mirrored = {edge: frozenset(flipped[keypoint] for keypoint in edge) for edge in edges}
    return edges == set(mirrored.values()) and any(edge != other for edge, other in mirrored.items())


def list_keypoints(skeleton: Skeleton) -> list[dict[str, Any]]:
    """What a build takes of each keypoint: name, mirror image, OKS sigma and where that is from."""
    rows = []
    for index, (name, other, sigma) in enumerate(
        zip(skeleton.names, skeleton.flip_order, skeleton.sigmas, strict=True)
    ):
        origin = "given"
        if sigma == published_sigma(name, is_paired=other != index):
            origin = "published"
        elif sigma == DEFAULT_SIGMA:
            origin = "by default"
        mirror = skeleton.names[other] if other != index else None
        rows.append({"name": name, "mirror": mirror, "sigma": sigma, "sigma_from": origin})
    return rows


def describe_keypoints(skeleton: Skeleton, *, most: int = 20) -> dict[str, str]:
    """The same as texts: the mirror pairs, with the keypoints in none, and the OKS sigmas.

    most: how many names each text holds.
    """
    names, pairs = skeleton.names, skeleton.flip_pairs
    alone = [name for index, name in enumerate(names) if skeleton.flip_order[index] == index]
    mirrors = _some([f"{names[a]}/{names[b]}" for a, b in pairs], most) or "none"
    if pairs and alone:
        mirrors += f"; in none: {_some(alone, most)}"
    groups: dict[str, list[str]] = {"published": [], "by default": [], "given": []}
    for row in list_keypoints(skeleton):
        groups[row["sigma_from"]].append(f"{row['name']} {row['sigma']:g}")
    sigmas = [f"{origin}: {_some(texts, most)}" for origin, texts in groups.items() if texts]
    return {
        "mirror pairs": mirrors,
        "OKS sigmas": "; ".join(sigmas),
    }


def _some(texts: list[str], most: int) -> str:
    return ", ".join(texts[:most]) + (f", ... ({len(texts)} in all)" if len(texts) > most else "")


def whole(number: Any) -> int:
    """A whole number, also if it is written as 1.0 or as text. Raises ValueError for anything else."""
    is_whole = isinstance(number, int | str) or (isinstance(number, float) and number.is_integer())
    if isinstance(number, bool) or not is_whole:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)
