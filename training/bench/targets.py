"""The targets of the project beside what the results of one run say of them."""

from collections.abc import Sequence
from functools import partial

import torch
from rich.table import Table

from pipelines.bench import rows as pipelines_rows
from pipelines.bench.result import Result, Row, Target

WHOLE, CACHED, MASKS, MASKS_SHARE, WAIT_SHARE, BUSY_SHARE = 3.0, 8.0, 10.0, 0.02, 0.02, 0.95
LONGEST_HOURS = 1.0


def targets(pipelines: Result | None, training: Result) -> tuple[Target, ...]:
    """Every target that this kind of machine can show; `pipelines`: the other result of the same run."""
    semi = [row for row in training.rows if row.name.startswith("semi, ")]
    ours = [row for row in semi if "classic" not in row.name]
    has_gpu = bool(training.machine["gpu"])
    found = [
        *loader_targets(pipelines, has_gpu=has_gpu),
        masks_share(pipelines, ours),
        data_wait(ours),
        memory(training),
    ]
    if has_gpu:
        found += [gpu_busy(ours), published_hours(ours)]
    return tuple(found)


def loader_targets(pipelines: Result | None, *, has_gpu: bool) -> list[Target]:
    """Ratios of one run of the pipelines' benchmark: of what a run on this machine takes."""
    on = partial(pipelines_rows.on, device=torch.device("cuda" if has_gpu else "cpu"))
    asked = [
        (on(pipelines_rows.LOADER_MASKS), pipelines_rows.CLASSIC, WHOLE),
        (on(pipelines_rows.LOADER_CACHE), pipelines_rows.CLASSIC, CACHED),
        (on(pipelines_rows.MASKS), on(pipelines_rows.MASKS_LOOP), MASKS),
    ]
    found = []
    for name, base, least in asked:
        ratio = pipelines.ratio(name, base) if pipelines else None
        found.append(
            Target(
                what=f"{name}, against {base}",
                asked=f"at least {least:g}x",
                measured=None if ratio is None else f"{ratio:.2f}x",
                is_met=None if ratio is None else ratio >= least,
            )
        )
    return found


def masks_share(pipelines: Result | None, ours: Sequence[Row]) -> Target:
    """Masking as a share of the fastest step, per person, so that batches may differ."""
    on_gpu = any("gpu_busy_share" in row.facts for row in ours)
    name = f"{pipelines_rows.MASKS}, GPU" if on_gpu else pipelines_rows.MASKS
    masking = pipelines.row(name) if pipelines else None
    people_per_s = max((row.facts["strong_images_per_s"] for row in ours), default=None)
    share = people_per_s / masking.median if masking and people_per_s else None
    return at_most("masking, as a share of a semi-supervised step", share, MASKS_SHARE)


def data_wait(ours: Sequence[Row]) -> Target:
    """The largest wait of any of our semi-supervised steps."""
    share = max((row.facts["data_wait_share"] for row in ours), default=None)
    return at_most("data wait in a semi-supervised step", share, WAIT_SHARE)


def memory(training: Result) -> Target:
    """The worst ratio of our run to that with the classic loader, of the same step and batch."""
    ratios = []
    for row in training.rows:
        classic = training.row(row.name.replace("our loader", "classic loader"))
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


def targets_table(found: Sequence[Target]) -> Table:
    """As people read them."""
    shown = Table("target", "asked", "measured", "", title="targets", title_justify="left")
    for each in found:
        verdict = {None: "not measured here", True: "met", False: "missed"}[each.is_met]
        shown.add_row(each.what, each.asked, each.measured or "", verdict)
    return shown
