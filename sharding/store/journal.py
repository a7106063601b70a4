"""The progress of a build: one line per complete shard, so that a killed build can continue from there."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from semipose.configs.load import InputError
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.identity import Identity
from semipose.sharding.store.manifest import ShardEntry, read_manifest
from semipose.sharding.store.progress_file import HashedLines

SHARDS = "shards"
"""The folder inside a building folder that becomes the output."""
JOURNAL_NAME = "journal.jsonl"


@dataclass
class Tally:
    """The results of the tasks of a plan so far.

    next_task, next_sample: the position of the next sample to store. faults: why photos were left out, by
    task. sizes_wh: the sizes of photos whose annotations have none, by task. notes: notes about stored
    photos, by task.
    """

    shards: list[ShardEntry] = field(default_factory=list)
    next_task: int = 0
    next_sample: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    sizes_wh: dict[int, tuple[int, int]] = field(default_factory=dict)
    notes: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """Samples in complete shards."""
        return sum(shard.samples for shard in self.shards)


class Journal:
    """The journal of one building folder."""

    def __init__(self, folder: Path, identity: Identity, name: str) -> None:
        """identity, name: those of the build; the journal of another build is dropped."""
        self.identity = identity
        self.name = name
        self.shards = folder / SHARDS
        self._lines = HashedLines(folder / JOURNAL_NAME, json.dumps([*identity, name]))
        self._noted_sizes = 0
        self._noted_faults = 0
        self._noted_notes = 0

    def is_finished(self) -> bool:
        """Whether the shards only have to be moved to their place."""
        try:
            manifest = read_manifest(self.shards)
        except InputError:
            return False
        found = (manifest.annotations_sha256, manifest.settings_sha256, manifest.name)
        return found == (*self.identity, self.name)

    def resume(self) -> Tally:
        """Return what is complete and intact; everything else in the folder is removed."""
        tally = Tally()
        intact: list[str] = []
        for line in self._lines.read():
            noted = json.loads(line)
            shard = ShardEntry(**noted["shard"])
            if not self._is_intact(shard):
                break
            intact.append(line)
            tally.shards.append(shard)
            tally.next_task, tally.next_sample = noted["next"]
            tally.sizes_wh |= {task: (size[0], size[1]) for task, size in noted["sizes"]}
            tally.faults |= dict(noted["faults"])
            tally.notes |= {task: tuple(notes) for task, notes in noted["notes"]}
        keep = {name for shard in tally.shards for name in (shard.file, shard.idx_file)}
        self.shards.mkdir(exist_ok=True)
        for path in self.shards.iterdir():
            if path.name not in keep:
                path.unlink()
        self._lines.rewrite(intact)
        self._count_noted(tally)
        return tally

    def note(self, tally: Tally) -> None:
        """Record that the last shard of `tally` is complete."""
        line = {
            "shard": asdict(tally.shards[-1]),
            "next": [tally.next_task, tally.next_sample],
            "sizes": list(tally.sizes_wh.items())[self._noted_sizes :],
            "faults": list(tally.faults.items())[self._noted_faults :],
            "notes": list(tally.notes.items())[self._noted_notes :],
        }
        self._lines.append(json.dumps(line))
        self._count_noted(tally)

    def _count_noted(self, tally: Tally) -> None:
        self._noted_sizes, self._noted_faults = len(tally.sizes_wh), len(tally.faults)
        self._noted_notes = len(tally.notes)

    def remove(self) -> None:
        """Remove the journal, so that the folder is removed when the build ends."""
        self._lines.rewrite([])

    def _is_intact(self, shard: ShardEntry) -> bool:
        files = {self.shards / shard.file: shard.sha256, self.shards / shard.idx_file: shard.idx_sha256}
        return all(path.is_file() and file_sha256(path) == sha256 for path, sha256 in files.items())
