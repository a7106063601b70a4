"""Early ends of a run: signals, and the end of the launcher that started it."""

import ctypes
import os
import signal
import sys
import time
from types import FrameType

import torch

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGREE_EVERY_S = 3.0
SAME_SIGNAL_S = 1.0
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Takes SIGTERM, SIGINT and SIGHUP, and has all ranks stop after the same step.

    A single process stops after the current step, several ranks within seconds. This is a context manager
    that restores the former handlers at its end. A signal that was ignored when the process started, as
    `nohup` ignores SIGHUP, stays ignored. A SIGINT after the first signal raises KeyboardInterrupt at once.
    """

    def __init__(self, *, step: int, world_size: int, device: torch.device) -> None:
        """step: the last finished step. device: the device of the ranks' collective operations."""
        self.asked = 0
        self._asked_at = 0.0
        self._world_size, self._device = world_size, device
        self._agreed_at, self._agreed_after, self._next = time.monotonic(), step, step + 1

    def __enter__(self) -> "StopRequest":
        own = {number: signal.getsignal(number) for number in STOPS}
        self._before = {number: handler for number, handler in own.items() if handler != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # A launcher forwards Ctrl-C to processes that already had it from the terminal: both count as one.
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = number, now
        elif number == signal.SIGINT and now - self._asked_at > SAME_SIGNAL_S:
            raise KeyboardInterrupt

    def agreed(self, step: int) -> int:
        """The number of the signal for which every rank stops after `step`; 0 to continue.

        The exchange between ranks waits for the device, so it takes place every few seconds only. The ranks
        also agree on the step of the next exchange, by the pace of the slowest.
        """
        if self._world_size == 1:
            return self.asked
        if step < self._next:
            return 0
        seconds = (time.monotonic() - self._agreed_at) / (step - self._agreed_after)
        exchanged = torch.tensor([float(self.asked), seconds], device=self._device)
        torch.distributed.all_reduce(exchanged, torch.distributed.ReduceOp.MAX)
        asked, seconds = exchanged.tolist()
        self._agreed_at, self._agreed_after = time.monotonic(), step
        self._next = step + max(1, int(AGREE_EVERY_S / max(seconds, 1e-3)))
        return int(asked)


def end_with_launcher(parent: int) -> None:
    """Have the kernel send SIGTERM when the launcher ends, because `accelerate launch` does not forward it.

    Otherwise a process would continue to train unnoticed after its launcher was stopped by `kill`, by a
    container or by a batch system. This applies only to processes that `accelerate launch` or `torchrun`
    started: one that was started by a shell may outlive the shell, for instance under `nohup` or in `tmux`.

    parent: the id of the parent process when this one started.
    """
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if not is_launched or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the launcher ended while this process was importing
        os.kill(os.getpid(), signal.SIGTERM)


def missing_processes(world_size: int) -> list[str]:
    """A warning if the launcher was asked for several processes and started only one.

    `accelerate launch --num_processes 2` does this silently on a CPU, and with fewer GPUs than processes.
    """
    is_asked_for_several = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if world_size > 1 or not is_asked_for_several or "WORLD_SIZE" in os.environ:
        return []
    return [
        "accelerate launch was asked for several processes but started only this one, because there are not "
        "as many GPUs: each step sees a single batch. On a CPU, `torchrun --nproc-per-node N training/run.py "
        "...` starts several processes"
    ]
