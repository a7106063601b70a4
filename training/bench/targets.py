"""The targets of the project beside what the results of one run say of them."""

from collections.abc import Sequence
from functools import partial

import torch

from semipose.training.bench import loader as names
from semipose.training.bench.result import Result, Row, Target

WHOLE, CACHED, MASKS, MASKS_SHARE, WAIT_SHARE, BUSY_SHARE = 3.0, 8.0, 10.0, 0.02, 0.02, 0.95
LONGEST_HOURS = 1.0


def targets(loader: Result | None, steps: Result) -> tuple[Target, ...]:
    """Every target that this kind of machine can show; `loader`: the other result of the same run."""
    semi = [row for row in steps.rows if row.name.startswith("semi, ")]
    ours = [row for row in semi if "classic" not in row.name]
    has_gpu = bool(steps.machine["gpu"])
    known = [
        *loader_targets(loader, has_gpu=has_gpu),
        masks_share(loader, ours),
        data_wait(ours),
        memory(steps),
    ]
    if has_gpu:
        known += [gpu_busy(ours), published_hours(ours)]
    return tuple(known)


def loader_targets(loader: Result | None, *, has_gpu: bool) -> list[Target]:
    """Ratios of one run of the loader's benchmark: of what a run on this machine takes."""
    on = partial(names.on, device=torch.device("cuda" if has_gpu else "cpu"))
    asked = [
        (on(names.LOADER_MASKS), names.CLASSIC, WHOLE),
        (on(names.LOADER_CACHE), names.CLASSIC, CACHED),
        (on(names.MASKS), on(names.MASKS_LOOP), MASKS),
    ]
    compared = []
    for name, base, least in asked:
        ratio = loader.ratio(name, base) if loader else None
        compared.append(
            Target(
                what=f"{name}, against {base}",
                asked=f"at least {least:g}x",
                measured=None if ratio is None else f"{ratio:.2f}x",
                is_met=None if ratio is None else ratio >= least,
            )
        )
    return compared


def masks_share(loader: Result | None, ours: Sequence[Row]) -> Target:
    """Masking as a share of the fastest step, per person, so that batches may differ."""
    on_gpu = any("gpu_busy_share" in row.facts for row in ours)
    name = f"{names.MASKS}, GPU" if on_gpu else names.MASKS
    masking = loader.row(name) if loader else None
    people_per_s = max((row.facts["strong_images_per_s"] for row in ours), default=None)
    share = people_per_s / masking.median if masking and people_per_s else None
    return at_most("masking, as a share of a semi-supervised step", share, MASKS_SHARE)


def data_wait(ours: Sequence[Row]) -> Target:
    """The largest wait of any of our semi-supervised steps."""
    share = max((row.facts["data_wait_share"] for row in ours), default=None)
    return at_most("data wait in a semi-supervised step", share, WAIT_SHARE)


def memory(steps: Result) -> Target:
    """The worst ratio of our run to that with the classic loader, of the same step and batch."""
    ratios = []
    for row in steps.rows:
        classic = steps.row(row.name.replace("our loader", "classic loader"))
        if "our loader" in row.name and classic:
            ratios.append(row.facts["peak_memory_mib"] / classic.facts["peak_memory_mib"])
    what = "peak memory of a run, against the classic loader with 2 workers"
    return at_most(what, max(ratios, default=None), 1.0)


def gpu_busy(ours: Sequence[Row]) -> Target:
    """The busiest of our steps."""
    share = max((row.facts["gpu_busy_share"] for row in ours), default=None)
    return Target(
        what="GPU busy in a semi-supervised step, at best",
        asked=f"above {BUSY_SHARE:.0%}",
        measured=None if share is None else f"{share:.1%}",
        is_met=None if share is None else share > BUSY_SHARE,
    )


def published_hours(ours: Sequence[Row]) -> Target:
    """The published 1K schedule by the fastest of our steps."""
    hours = min((row.facts["published_1k_hours"] for row in ours), default=None)
    return Target(
        what="published 1K schedule on this GPU, projected",
        asked=f"under {LONGEST_HOURS:g} h",
        measured=None if hours is None else f"{hours:.2f} h",
        is_met=None if hours is None else hours < LONGEST_HOURS,
    )


def at_most(what: str, share: float | None, most: float) -> Target:
    """A share that must not be larger."""
    return Target(
        what=what,
        asked=f"at most {most:.0%}",
        measured=None if share is None else f"{share:.2%}",
        is_met=None if share is None else share <= most,
    )
