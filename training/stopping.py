"""What ends a run before its last step: signals, and the end of the launcher that started it."""

import ctypes
import os
import signal
import sys
import time
from types import FrameType

import torch

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGREE_EVERY_S = 3.0
ONE_WISH_S = 1.0
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """SIGTERM, SIGINT or SIGHUP, on which all ranks agree: alone after the step, together within seconds.

    A context manager: the signals have their former handlers before and after it. A signal that was ignored
    when the process started, as `nohup` ignores SIGHUP, stays ignored. A SIGINT after the first signal raises
    KeyboardInterrupt at once.
    """

    def __init__(self, *, step: int, world_size: int, device: torch.device) -> None:
        """step: the last one that is finished. device: where the ranks' collectives work."""
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
        # A launcher hands Ctrl-C on to processes that the terminal has told already: that is one wish.
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = number, now
        elif number == signal.SIGINT and now - self._asked_at > ONE_WISH_S:
            raise KeyboardInterrupt

    def agreed(self, step: int) -> int:
        """The number of the signal for which every rank stops after `step`; 0 to go on.

        Asking the others waits for the device, so it is done every few seconds. In how many steps that is,
        they agree on too, by the slowest of them.
        """
        if self._world_size == 1:
            return self.asked
        if step < self._next:
            return 0
        seconds = (time.monotonic() - self._agreed_at) / (step - self._agreed_after)
        told = torch.tensor([float(self.asked), seconds], device=self._device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        asked, seconds = told.tolist()
        self._agreed_at, self._agreed_after = time.monotonic(), step
        self._next = step + max(1, int(AGREE_EVERY_S / max(seconds, 1e-3)))
        return int(asked)


def end_with_launcher(parent: int) -> None:
    """Have the kernel send SIGTERM when the launcher ends, which `accelerate launch` does not hand on.

    Without it, a process whose launcher is stopped by `kill`, by a container's or a batch system's end, would
    train on, unseen. Only a process that was started by `accelerate launch` or `torchrun` asks for it: one
    that was started by a shell may outlive the shell, as under `nohup` or in `tmux`.

    parent: the id of the parent process when this one started.
    """
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if not is_launched or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended while this process was importing
        os.kill(os.getpid(), signal.SIGTERM)


def missing_processes(world_size: int) -> list[str]:
    """A sentence where the launcher was asked for several processes and started one alone; else nothing.

    `accelerate launch --num_processes 2` does so without a word on a CPU, and with fewer GPUs than processes.
    """
    is_asked_for_several = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if world_size > 1 or not is_asked_for_several or "WORLD_SIZE" in os.environ:
        return []
    return [
        "accelerate launch was asked for several processes and started this one alone, as there are not as "
        "many GPUs: a step sees one batch. On a CPU, `torchrun --nproc-per-node N training/run.py ...` "
        "starts several"
    ]
