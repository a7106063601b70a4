"""Tars made by hand, and what lies in finished shards, by the standard library's own reader."""

import tarfile
from pathlib import Path

from semipose.sharding.store.index import Component, read_index, write_index
from semipose.sharding.store.manifest import read_manifest


def build_index(tar_path: Path) -> Path:
    """Write the index of a tar beside it, from its headers; tarfile.ReadError where that cannot be done."""
    samples: dict[str, list[Component]] = {}
    last, end = None, 0
    with tar_path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if not member.isfile():
                continue
            extension = member.name.rpartition("/")[2].partition(".")[2]
            key = member.name.removesuffix(f".{extension}")
            if key != last and key in samples:
                raise tarfile.ReadError(f"the members of {key} are not adjacent")
            last = key
            component = Component(extension, member.offset_data, member.size, member.name)
            samples.setdefault(key, []).append(component)
        file.seek(end)
        if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")  # tarfile takes a cut file for a whole one
    return write_index(tar_path.with_suffix(".idx"), [tuple(sample) for sample in samples.values()])


def stored_samples(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of every sample of a folder of shards, in order."""
    samples = []
    for shard in read_manifest(folder).shards:
        content = (folder / shard.file).read_bytes()
        for sample in read_index(folder / shard.idx_file):
            key = sample[0].member.partition(".")[0]
            samples.append((key, {c.extension: content[c.offset :][: c.size] for c in sample}))
    return samples
