"""The limits of a GPU machine, measured in the same run: what no loader and no kernel can beat."""

import statistics
from collections.abc import Callable

import torch

from pipelines.bench import masks
from pipelines.bench.settings import BenchSettings
from pipelines.masking.op import mask_keypoints

COPY_BYTES = 1 << 28
REPEATS = 7


def gpu_limits(cfg: BenchSettings) -> dict[str, float]:
    """Bandwidths in GB/s, and the time of the masking op beside the least that its writes can take, in us."""
    device = torch.device("cuda:0")
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there, other = (torch.empty(COPY_BYTES, dtype=torch.uint8, device=device) for _ in range(2))
    into_s = seconds(lambda: there.copy_(host, non_blocking=True))
    fill_s = seconds(lambda: other.fill_(1))
    copy_s = seconds(lambda: other.copy_(there))
    step = masks.make_step(cfg.batch_size, cfg.keypoints, cfg.views.size_hw, device)
    chosen = masks.choose(step, masks.count(step))
    painted = painted_bytes(step, chosen)
    write_bandwidth = COPY_BYTES / fill_s
    return {
        "host_to_device_gb_per_s": COPY_BYTES / into_s / 1e9,
        "device_write_gb_per_s": write_bandwidth / 1e9,
        "device_copy_gb_per_s": 2 * COPY_BYTES / copy_s / 1e9,
        "masking_op_us": 1e6 * seconds(lambda: mask_keypoints(step.images, *chosen, step.fill)),
        "masking_all_us": 1e6 * seconds(lambda: masks.mask(step)),
        "masking_floor_us": 1e6 * painted / write_bandwidth,
        "masking_painted_mb": painted / 1e6,
    }


def painted_bytes(step: masks.Step, chosen: masks.Masks) -> int:
    """Bytes that differ once everything chosen is painted: each painted pixel once."""
    blank = torch.zeros_like(step.images)
    mask_keypoints(blank, *chosen, torch.ones_like(step.fill))
    return int(blank.sum()) * blank.element_size()


def seconds(call: Callable[[], object], *, calls: int = 20) -> float:
    """Median time of a call on the device, from events around many of them, so that launches overlap."""
    for _ in range(3):
        call()
    found = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(found)
