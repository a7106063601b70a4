"""People who go out to a tool and come back unchanged are the same, for every format."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.semipose.label.drawn import (
    FORMATS,
    SKELETONS,
    bring_in,
    export_of,
    people_of,
    send_out,
    write_predictions,
)


def assert_same_people(before: dict, after: dict, *, with_ids: bool = False) -> None:
    """Photo by photo: keypoints and boxes to 0.1 px, and every visibility."""
    assert people_of(before).keys() == people_of(after).keys()
    for name, rows in people_of(before).items():
        others = people_of(after)[name]
        assert len(rows) == len(others)
        for row, other in zip(rows, others, strict=True):
            old, new = (np.reshape(each["keypoints"], (-1, 3)) for each in (row, other))
            assert new[:, 2].tolist() == old[:, 2].tolist()
            labelled = old[:, 2] > 0
            np.testing.assert_allclose(new[labelled, :2], old[labelled, :2], atol=0.1)
            np.testing.assert_allclose(other["bbox"], row["bbox"], atol=0.1)
            assert not with_ids or row["id"] == other["id"]


@pytest.mark.parametrize("num_keypoints", SKELETONS)
@pytest.mark.parametrize("kind", FORMATS)
def test_what_comes_back_unchanged_is_what_went_out(kind: str, num_keypoints: int, tmp_path: Path) -> None:
    source = write_predictions(tmp_path / "predictions", SKELETONS[num_keypoints])
    folder = send_out(source, tmp_path / "out", f"format={kind}")
    words = [f"sent={folder / 'sent.json'}", f"images={source / 'photos'}"]
    merged, said = bring_in(export_of(folder, kind), tmp_path / "my.json", *words)
    assert_same_people(json.loads((source / "keypoints.json").read_text()), merged)
    assert "people: 6 came back, 0 were added, 0 were removed" in said
    assert "0 keypoints moved, 0 have another visibility" in said


@pytest.mark.parametrize("kind", FORMATS)
def test_people_of_a_file_of_annotations_keep_their_ids(kind: str, tmp_path: Path) -> None:
    source = write_predictions(tmp_path / "mine", SKELETONS[6])
    mine = source / "keypoints.json"
    before = json.loads(mine.read_text())
    folder = send_out(mine, tmp_path / "out", f"format={kind}")
    words = [f"sent={folder / 'sent.json'}", f"images={source / 'photos'}"]
    for _ in range(2):  # a second time changes nothing
        merged, _ = bring_in(export_of(folder, kind), mine, *words)
        assert_same_people(before, merged, with_ids=True)
    backups = sorted(path.name for path in source.glob("*before-label-in*"))
    assert backups == ["keypoints.before-label-in-2.json", "keypoints.before-label-in.json"]
    assert json.loads((source / "keypoints.before-label-in.json").read_text()) == before


def test_a_zip_is_read_as_the_file_in_it(tmp_path: Path) -> None:
    source = write_predictions(tmp_path / "predictions")
    for kind in ("cvat", "coco", "yolo"):
        folder = send_out(source, tmp_path / kind, f"format={kind}")
        with zipfile.ZipFile(tmp_path / f"{kind}.zip", "w") as file:
            for path in sorted(folder.rglob("*")):
                if path.name not in ("sent.json", "labels.json"):
                    file.write(path, path.relative_to(folder))
        words = [f"sent={folder / 'sent.json'}", f"images={source / 'photos'}"]
        merged, _ = bring_in(tmp_path / f"{kind}.zip", tmp_path / f"{kind}.json", *words)
        assert_same_people(json.loads((source / "keypoints.json").read_text()), merged)
