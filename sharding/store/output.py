"""The folder that a command makes: written aside, moved at the end, continued after a kill, never mixed."""

import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError
from semipose.sharding.store.files import follow_links, holds_anything, making_folder, put_in_place
from semipose.sharding.store.identity import Identity
from semipose.sharding.store.journal import JOURNAL_NAME, Journal
from semipose.sharding.store.manifest import (
    MANIFEST_NAME,
    PHOTO_ABSENT,
    PHOTO_DAMAGED,
    Manifest,
    check_shards,
    is_plain_name,
    read_manifest,
)

_DOING = "building"
_RESUME = "start the same command again; it continues after the last complete shard"


def make_output(
    output: Path, identity: Identity, write: Callable[[Journal], Manifest], console: Console
) -> tuple[Manifest, bool]:
    """Make a folder of shards; returns its manifest, and whether it was made now.

    write: fills the folder of the journal, from where the journal stands, and returns the manifest. A folder
    with the same identity is kept if it is complete, and made again if it is damaged. Raises InputError for a
    folder that holds anything else, if another process makes the same one, and for a disk that cannot be
    written.
    """
    with named_disk_errors(output, then=_RESUME):
        folder = follow_links(output)
        with making_folder(folder, _DOING, keeps=JOURNAL_NAME) as aside:
            journal = Journal(aside, identity, output.name)
            is_open = folder.is_dir() and not (folder / MANIFEST_NAME).exists()
            if is_open and journal.is_finished():  # after a kill while the files were moved
                put_in_place(journal.shards, folder, last=MANIFEST_NAME)
            old, is_whole = _find_output(folder, output, identity, console)
            if old is not None and is_whole:
                journal.remove()  # a kill after the files were moved leaves a journal
                return old, False
            manifest = write(journal)
            if old is not None:
                _remove_other_shards(folder, old, manifest)
            put_in_place(journal.shards, folder, last=MANIFEST_NAME)
            journal.remove()
    return manifest, True


def check_name(name: str, console: Console) -> None:
    """Check early that the name of the output, which is also that of the tars, works everywhere."""
    if re.search(r"[\\\x00-\x1f\x7f\ud800-\udfff]", name):
        raise InputError(
            f"output={name!r}: the tars cannot have this name, because it contains a backslash, a control "
            "character or bytes that are not UTF-8: choose another output=..."
        )
    if name and not is_plain_name(name):
        console.print(
            f"note: tars named {name!r} can be read from a folder, an object store or over http, but not "
            "through pipe:COMMAND, which allows only letters, digits and . _ + = @ -",
            highlight=False,
            soft_wrap=True,
        )


def _find_output(
    folder: Path, output: Path, identity: Identity, console: Console
) -> tuple[Manifest | None, bool]:
    """The manifest of an output that this build made before, and whether the output is complete.

    The manifest is None if there is nothing yet. output: the folder as the user wrote it. Raises InputError
    for anything else.
    """
    if not folder.exists() or (folder.is_dir() and not holds_anything(folder, _DOING)):
        return None, False
    other = (
        f"{output}: this exists, but it is not what this build makes: remove it or choose another output=..."
    )
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        raise InputError(other) from error
    if (manifest.annotations_sha256, manifest.settings_sha256) != identity:
        raise InputError(f"{other} (it was made from other annotations or settings)")
    try:
        check_shards(folder, manifest)
    except InputError as error:
        console.print(f"making {output} again: {error}", highlight=False, soft_wrap=True)
        return manifest, False
    console.print(
        f"{output} exists already: {manifest.num_samples} samples, same annotations and settings",
        highlight=False,
        soft_wrap=True,
    )
    without_photo = sum(manifest.dropped.get(reason, 0) for reason in (PHOTO_ABSENT, PHOTO_DAMAGED))
    if without_photo:
        console.print(
            f"note: samples left out because their photos were absent or damaged: {without_photo:,}; if you "
            f"have replaced those photos, remove {output} and start the same command again",
            highlight=False,
            soft_wrap=True,
        )
    return manifest, True


def _remove_other_shards(folder: Path, old: Manifest, new: Manifest) -> None:
    """Remove the shards of a damaged output that its new manifest does not name."""
    kept = {shard.file for shard in new.shards}
    for shard in old.shards:
        if shard.file not in kept:
            (folder / shard.file).unlink(missing_ok=True)
            (folder / shard.idx_file).unlink(missing_ok=True)
