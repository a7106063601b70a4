"""Warnings about settings that are probably unintended."""

import json
import math
from collections.abc import Sequence

from semipose.configs.schema import plain
from semipose.models.codecs.heatmap import HeatmapSettings
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import Split
from semipose.pipelines.strong.cut_occlude import CutOcclude
from semipose.pipelines.strong.joint_cutout import AdaptiveMasks, JointCutout, RandomMasks, published_share
from semipose.pipelines.views import ViewSettings
from semipose.sharding.samples.crop import Crop, PersonCrop
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.reporting.shared_photos import shared_photos
from semipose.training.scoring.oks import beyond_limit
from semipose.training.settings import RunSettings

NAMES_SHOWN = 3
MOST_HIDDEN: dict[type, str] = {
    JointCutout: "count",
    CutOcclude: "count",
    RandomMasks: "max_masks",
    AdaptiveMasks: "max_masks",
}
"""The setting that is the largest number of keypoints that an augmentation hides."""


def setting_warnings(
    cfg: RunSettings, labelled: Split, unlabelled: Split | None, val: Split, sources: Sequence[Split] = ()
) -> list[str]:
    """One sentence per warning; a run prints them at its start."""
    trained_on = [labelled, *([unlabelled] if unlabelled else []), *sources]
    train_folders = {split.root: split for split in trained_on}
    folders = train_folders | {val.root: val}
    warnings = [too_small(split, cfg.views.size_hw) for split in folders.values()]
    warnings += [cut_otherwise(val, split) for split in train_folders.values()]
    seen = photos_seen(val, trained_on)
    warnings += [seen] if seen else [divided_otherwise(val, split) for split in train_folders.values()]
    warnings += [of_the_other_kind(cfg), same_start(cfg), never_taught(cfg)]
    warnings += [all_hidden(cfg, labelled.skeleton.num_keypoints)]
    return [warning for warning in warnings if warning]


def same_start(cfg: RunSettings) -> str | None:
    """A warning if two networks that teach each other start from the same trained one."""
    if cfg.net.start_from is None or getattr(cfg.method, "second_net", cfg) is not None:
        return None
    return (
        "net.start_from: both networks start from the same weights, so at first they answer alike and teach "
        "each other little: let the second start from another run (method.second_net, with the whole network)"
    )


def never_taught(cfg: RunSettings) -> str | None:
    """A warning if a source that hands over never counts, because the method has no burn-in."""
    hands_over = [source.shards for source in cfg.data.sources if source.hand_over]
    is_settled = cfg.method.uses_unlabelled and cfg.method.settled_from(cfg.steps) == 0
    if not hands_over or not is_settled:
        return None
    return (
        f"data.sources: {', '.join(hands_over)} never counts, because the unlabelled losses of the method "
        "have their full weight from the first step: set method.burn_in, such as 0.5, or hand_over: false"
    )


def all_hidden(cfg: RunSettings, num_keypoints: int) -> str | None:
    """A warning if a strong view can have every keypoint hidden: the published numbers are for 14 to 17."""
    too_many = {
        f"{each.name}.{key}={getattr(each, key)}"
        for path in getattr(cfg.method, "paths", ())
        for each in path
        if (key := MOST_HIDDEN.get(type(each))) and (getattr(each, key) or 0) >= num_keypoints
    }
    if num_keypoints == 1 or not too_many:
        return None
    return (
        f"method.paths: {', '.join(sorted(too_many))} can hide all {num_keypoints} keypoints of an image, "
        f"which leaves the student only the background: take at most {num_keypoints - 1}; the share that "
        f"Meng et al. publish is {published_share(num_keypoints)}"
    )


def limits_of_scoring(cfg: RunSettings, ground_truth: GroundTruth) -> list[str]:
    """What the scores of the run will not show, one sentence each; `ground_truth` is that of `data.val`."""
    warnings = []
    beyond = beyond_limit(ground_truth)
    if beyond:
        warnings.append(f"{cfg.data.val}: {beyond}")
    every = cfg.evaluate_every
    first = every if isinstance(every, int) else math.ceil(every * cfg.steps)
    if first >= cfg.steps > 1:
        warnings.append(
            f"evaluate_every={every}: a run of {cfg.steps:,} steps is scored only at its end: use a share "
            "of the run, such as evaluate_every=0.1 and checkpoint_every=0.05"
        )
    return warnings


def too_small(split: Split, size_hw: tuple[int, int]) -> str | None:
    """A warning if people were stored for smaller views than the run uses."""
    crop = split.manifest.crop
    if not isinstance(crop, PersonCrop):
        return None
    width, height = crop.input_size_wh
    if height >= size_hw[0] and width >= size_hw[1]:
        return None
    return (
        f"{split.root}: people are stored for views of {height} x {width} pixels (height x width) but shown "
        f"at {size_hw[0]} x {size_hw[1]}, so details are missing: build the shards again with "
        f"crop.input_size_wh=[{size_hw[1]},{size_hw[0]}]"
    )


def cut_otherwise(val: Split, trained_on: Split) -> str | None:
    """A warning if people or photos to learn from are stored with another crop than those that are scored."""
    own, scored = _crop_settings(trained_on.manifest.crop), _crop_settings(val.manifest.crop)
    if own == scored:
        return None
    names = [name for name in own | scored if own.get(name) != scored.get(name)]
    here, there = (
        " ".join(f"{name}={crop[name]}" for name in names if name in crop) for crop in (own, scored)
    )
    return (
        f"{trained_on.root} is stored with {here}, but {val.root} with {there}: the views that are scored, "
        "and those of `semipose predict`, have another sharpness or border than the views that the network "
        "learns from. Unless you want this, build one of the two again with the settings of the other"
    )


def _crop_settings(crop: Crop) -> dict[str, str]:
    """The settings of a crop by their names in a shard recipe, as one writes them there."""
    return {
        f"crop.{name}": value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in plain(crop).items()
    }


def of_the_other_kind(cfg: RunSettings) -> str | None:
    """A warning if settings that only the other kind of samples has are not what they are by default."""
    of_people = {"views": cfg.views == ViewSettings(), "heatmap": cfg.heatmap == HeatmapSettings()}
    of_people["data.cache"] = cfg.data.cache == "none"
    of_photos = {"photo_views": cfg.photo_views == PhotoViewSettings()}
    changed = [name for name, is_plain in (of_people if cfg.codec else of_photos).items() if not is_plain]
    if not changed:
        return None
    samples, own = ("whole photos", "photo_views and codec") if cfg.codec else ("people", "views and heatmap")
    return f"a run on {samples} does not use {' and '.join(changed)}: its own settings are {own}"


def photos_seen(val: Split, trained_on: list[Split]) -> str | None:
    """A warning if photos of the scored people are also trained on; the labelled split comes first."""
    shared = shared_photos(val, trained_on)
    if not shared.names:
        return None
    named = ", ".join(shared.names[:NAMES_SHOWN]) + (", ..." if shared.names[NAMES_SHOWN:] else "")
    count = (
        f"{'' if shared.is_complete else 'at least '}{len(shared.names):,} of {shared.num_photos:,} photos"
    )
    return (
        f"{val.root}: {count} of the people who are scored are also trained on ({named}), so the scores will "
        f"mean little: {_cure_of_shared(val, trained_on)}"
    )


def _cure_of_shared(val: Split, trained_on: list[Split]) -> str:
    """How to keep the photos of the scored people out of those that are trained on."""
    roots = {split.root for split in trained_on if shared_photos(val, [split]).names}
    if trained_on[0].root in roots:
        return (
            "build data.val from other photos, such as the other side of one file (split.take=val, and "
            "split.take=train for data.train)"
        )
    return (
        f"build {' and '.join(sorted(roots))} again without them; for a folder of photos, "
        "source.labelled.annotations=FILE source.labelled.images=PHOTOS leaves out those of labelled people"
    )


def divided_otherwise(val: Split, trained_on: Split) -> str | None:
    """A warning if both are sides of one source, but not the two sides of one division of it."""
    one, other = val.manifest.split, trained_on.manifest.split
    if one is None or other is None or one.num_people != other.num_people:
        return None
    if one.division == other.division and one.take != other.take:
        return None
    return (
        f"{val.root} and {trained_on.root} are not the two sides of one division: scored people may "
        "also be trained on. Build them with the same split.val_share, split.seed and split.group, one with "
        "split.take=train, the other with split.take=val"
    )
