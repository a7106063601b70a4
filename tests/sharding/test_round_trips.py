"""Every format's real people, built and read back: points closely, ids, areas and visibility exactly."""

import io
import json
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from semipose.sharding.annotations.boxes import ResultsBoxes, WholePhotoBoxes
from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.formats.mpii import MpiiFormat
from semipose.sharding.build import build
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.crop import PersonCrop, WholePhoto
from semipose.sharding.samples.person import decode_pose
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.manifest import read_manifest

COCO_PEOPLE = 60


def source_of(name: str, data):
    """The source of a real set, and how many of its people to build."""
    coco = data / "coco" / "annotations" / "person_keypoints_val2017_joined.json"
    crowdpose = data / "crowdpose"
    boxes = ResultsBoxes(results=crowdpose / "test_crowdpose_det_AP_40.json")
    return {
        "coco": lambda: CocoFormat(annotations=coco, images=data / "coco" / "images" / "val2017"),
        "coco-style": lambda: CocoStyleFormat(
            annotations=coco, images=data / "coco" / "images" / "val2017", sigmas=0.1
        ),
        "mpii": lambda: MpiiFormat(
            annotations=data / "mpii" / "mpii_hrnet_list.json", images=data / "mpii" / "images"
        ),
        "aic": lambda: AicFormat(
            annotations=data / "aic" / "keypoint_annotations_raw_reconstructed.json",
            images=data / "aic" / "images",
        ),
        "crowdpose": lambda: CrowdPoseFormat(
            annotations=crowdpose / "test_crowdpose.json", images=crowdpose / "images"
        ),
        "lsp": lambda: LspFormat(
            joints=data / "lspet" / "joints.mat", images=data / "lspet" / "images", first=1, last=30
        ),
        "folder": lambda: FolderFormat(images=crowdpose / "images", skeleton="crowdpose", boxes=boxes),
    }[name]()


def samples_of(output):
    """Card, box, keypoints and JPEG of every sample of one person, in order."""
    manifest = read_manifest(output)
    for shard in manifest.shards:
        with tarfile.open(output / shard.file) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for key in dict.fromkeys(name.partition(".")[0] for name in members):
            box, keypoints = decode_pose(members[f"{key}.pose"], manifest.skeleton.num_keypoints)
            yield json.loads(members[f"{key}.json"]), box, keypoints, members[f"{key}.jpg"]


@pytest.mark.parametrize("name", ["coco", "coco-style", "mpii", "aic", "crowdpose", "lsp", "folder"])
@pytest.mark.parametrize("crop", [PersonCrop(input_size_wh=(96, 128)), WholePhoto()], ids=["cut", "whole"])
def test_people_read_back_are_the_annotations(shared_data, tmp_path, quiet, name, crop):
    source = source_of(name, shared_data)
    settings = BuildSettings(source=source, output=tmp_path / "out", crop=crop, limit=COCO_PEOPLE, workers=1)
    build(settings, console=quiet)
    persons = {person.id: person for person in source.read().persons}
    samples = list(samples_of(tmp_path / "out"))
    assert len(samples) == min(len(persons), COCO_PEOPLE)
    for card, box, keypoints, _ in samples:
        person = persons[card["id"]]
        assert (card["image_id"], card["file_name"]) == (person.image_id, person.file_name)
        assert card["area"] == person.area
        np.testing.assert_array_equal(keypoints[:, 2], person.keypoints[:, 2])
        matrix = np.array(card["image_from_stored"])
        labelled = person.keypoints[:, 2] > 0
        back = keypoints[labelled, :2] @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(back, person.keypoints[labelled, :2], atol=0.05)
        corners = np.array([box[:2], box[:2] + box[2:]]) @ matrix[:, :2].T + matrix[:, 2]
        x, y, w, h = person.box_xywh
        np.testing.assert_allclose(corners, [[x, y], [x + w, y + h]], atol=0.05)
    if name != "folder":
        assert sum((keypoints[:, 2] > 0).sum() for _, _, keypoints, _ in samples) > 20


def test_people_of_a_mat_read_back(tmp_path, quiet):
    """The original MPII file: a person near the corner, whose square reaches beyond the photo."""
    Image.new("RGB", (160, 120)).save(tmp_path / "a.jpg")
    point = np.array([(40.0, 30.0, 9.0), (45.0, 60.0, 0.0)], [("x", float), ("y", float), ("id", float)])
    person = {"scale": 0.5, "objpos": {"x": 41.0, "y": 43.5}, "annopoints": {"point": point}}
    photo = {"image": {"name": "a.jpg"}, "annorect": person}
    release = {"annolist": photo, "img_train": 1}
    scipy.io.savemat(tmp_path / "mpii.mat", {"RELEASE": release})
    source = MpiiFormat(annotations=tmp_path / "mpii.mat", images=tmp_path, split="train")
    build(BuildSettings(source=source, output=tmp_path / "out", workers=1), console=quiet)
    ((card, box, keypoints, _),) = samples_of(tmp_path / "out")
    matrix = np.array(card["image_from_stored"])
    back = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back[[9, 0]], [[39, 29], [44, 59]], atol=1e-3)
    assert keypoints[:, 2].tolist() == [2] + [0] * 8 + [2] + [0] * 6
    np.testing.assert_allclose(matrix[:, :2] @ box[:2] + matrix[:, 2], [40 - 50, 50 - 50], atol=1e-3)
    assert card["area"] == pytest.approx(0.53 * 100 * 100)


@pytest.mark.parametrize("crop", [PersonCrop(), WholePhoto()])
def test_a_turned_photo_of_a_folder_is_stored_upright(tmp_path, quiet, crop):
    """A phone's photo: red at the top once it is turned by a quarter."""
    folder = tmp_path / "photos"
    folder.mkdir()
    upright = np.zeros((60, 40, 3), np.uint8)
    upright[:30, :, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    Image.fromarray(np.rot90(upright).copy()).save(folder / "a.jpg", exif=exif, quality=95)
    source = FolderFormat(images=folder, boxes=WholePhotoBoxes())
    build(BuildSettings(source=source, output=tmp_path / "out", crop=crop, workers=1), console=quiet)
    verify(VerifySettings(verify=tmp_path / "out", workers=1), console=quiet)
    ((card, _, _, jpeg),) = samples_of(tmp_path / "out")
    stored = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert card["source_size"] == [40, 60]
    assert stored.shape == (60, 40, 3)
    assert stored[:28, :, 0].min() > 200
    assert stored[32:, :, 0].max() < 60
