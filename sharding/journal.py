"""How far a build has come: one line for each complete shard, so that a killed build goes on from there."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from configs.load import InputError
from sharding.files import file_sha256, write_atomic
from sharding.identity import Identity
from sharding.manifest import ShardEntry

SHARDS = "shards"
"""The folder inside a building folder that becomes the output."""
_JOURNAL, _LOCK = "journal.jsonl", "lock"


@dataclass
class Tally:
    """What became of the tasks of a plan so far.

    next_task, next_sample: the place of the sample to be stored next. faults: why a photo was left out, by
    task. sizes_wh: of the photos whose size the annotations do not give, by task.
    """

    shards: list[ShardEntry] = field(default_factory=list)
    next_task: int = 0
    next_sample: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    sizes_wh: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """Samples in complete shards."""
        return sum(shard.samples for shard in self.shards)


@contextmanager
def building_folder(output: Path) -> Iterator[Path]:
    """The hidden folder beside `output` where it is made, for this process alone.

    It is removed at the end unless it holds complete shards. Raises InputError where another build is in it.
    """
    folder = output.with_name(f".{output.name}.building")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{output}: another build is writing this folder: wait for it, or give another output=..."
        ) from error
    try:
        yield folder
    finally:
        if not (folder / _JOURNAL).exists():
            shutil.rmtree(folder)
        lock.release()


class Journal:
    """The journal of one building folder; its first line says what is being built."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """identity: of what is being built; the journal of another build is dropped."""
        self.identity = identity
        self.shards = folder / SHARDS
        self._path = folder / _JOURNAL
        self._head = json.dumps(identity)
        self._noted_sizes = 0
        self._noted_faults = 0

    def resume(self) -> Tally:
        """What is complete and intact; everything else in the folder is removed."""
        tally, lines = self._read()
        keep = {name for shard in tally.shards for name in (shard.file, shard.idx_file)}
        self.shards.mkdir(exist_ok=True)
        for path in self.shards.iterdir():
            if path.name not in keep:
                path.unlink()
        if lines:
            write_atomic(self._path, "".join(f"{line}\n" for line in (self._head, *lines)).encode())
        else:
            self.remove()
        self._noted_sizes, self._noted_faults = len(tally.sizes_wh), len(tally.faults)
        return tally

    def note(self, tally: Tally) -> None:
        """Note that the last shard of `tally` is complete."""
        line = {
            "shard": asdict(tally.shards[-1]),
            "next": [tally.next_task, tally.next_sample],
            "sizes": list(tally.sizes_wh.items())[self._noted_sizes :],
            "faults": list(tally.faults.items())[self._noted_faults :],
        }
        head = "" if self._path.exists() else self._head + "\n"
        with self._path.open("a") as file:
            file.write(f"{head}{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())
        self._noted_sizes, self._noted_faults = len(tally.sizes_wh), len(tally.faults)

    def remove(self) -> None:
        """Forget everything: the folder goes when the build ends."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[Tally, list[str]]:
        """What the journal's good lines say, and these lines."""
        tally = Tally()
        # A full disk or a kill may have left the file empty.
        head, *lines = (self._path.read_text().splitlines() if self._path.exists() else ()) or ("",)
        good: list[str] = []
        with suppress(ValueError):  # a kill may have cut the last line short
            for line in lines if head == self._head else []:
                noted = json.loads(line)
                shard = ShardEntry(**noted["shard"])
                if not self._is_intact(shard):
                    break
                good.append(line)
                tally.shards.append(shard)
                tally.next_task, tally.next_sample = noted["next"]
                tally.sizes_wh |= {task: (size[0], size[1]) for task, size in noted["sizes"]}
                tally.faults |= dict(noted["faults"])
        return tally, good

    def _is_intact(self, shard: ShardEntry) -> bool:
        files = {self.shards / shard.file: shard.sha256, self.shards / shard.idx_file: shard.idx_sha256}
        return all(path.is_file() and file_sha256(path) == sha256 for path, sha256 in files.items())
