"""Photos that EXIF turns: upright where their boxes are, else as annotated, which the build says."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from semipose.sharding.annotations.boxes import ResultsBoxes
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.detector import _decode
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.formats.yolo_pose import YoloPoseFormat
from semipose.sharding.annotations.photos import open_photos
from semipose.sharding.annotations.record import Photo
from semipose.sharding.build import build
from semipose.sharding.check.report import check
from semipose.sharding.samples.crop import PersonCrop, WholePhoto
from semipose.sharding.samples.decode import decode_photo, photo_sizes
from semipose.sharding.settings import BuildSettings
from tests.sharding.test_round_trips import samples_of

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}
STORING = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By orientation: what an upright picture is turned by to be stored."""
SIZES_WH = [(64, 48), (56, 56)]
BOX_XYWH = [36.0, 8.0, 12.0, 30.0]
NOT_OBEYED = "EXIF rotation, not obeyed: joints are taken to lie in the pixels as they are stored"
TURNED = "EXIF rotation, obeyed: nobody annotated the photo as it is stored"
OBEYED = "EXIF rotation, obeyed: the photo turned upright has the annotated size"


def ramp(size_wh):
    """An upright picture in which red tells x and green tells y: each way to turn it is seen."""
    x, y = np.meshgrid(np.arange(size_wh[0]), np.arange(size_wh[1]))
    return np.stack([40 + 3 * x, 20 + 4 * y, np.full_like(x, 90)], axis=2).astype(np.uint8)


def encode(size_wh, orientation, kind="JPEG"):
    """The picture as a camera stores it that was held so."""
    image = Image.fromarray(ramp(size_wh))
    if orientation in STORING:
        image = image.transpose(STORING[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.fixture(params=SIZES_WH, ids=["oblong", "square"])
def photos(request, tmp_path):
    """A folder of one picture in every orientation and format; gives it with the picture's upright size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for kind, suffix in KINDS.items():
        for orientation in range(1, 9):
            (folder / f"{orientation}.{suffix}").write_bytes(encode(request.param, orientation, kind))
    return folder, request.param


def results(folder, path, key):
    rows = [
        {"bbox": BOX_XYWH, "score": 0.9, "category_id": 1, **key(number, name)}
        for number, name in enumerate(sorted(each.name for each in folder.iterdir()), start=1)
    ]
    path.write_text(json.dumps(rows))
    return path


def write_list(folder, path, size_wh):
    """COCO's list of the photos; size_wh: what it says of them, or None for that of the pixels as stored."""
    rows = []
    for number, photo in enumerate(sorted(folder.iterdir()), start=1):
        width, height = size_wh or photo_sizes(photo.read_bytes())[0]
        rows.append({"id": number, "file_name": photo.name, "width": width, "height": height})
    path.write_text(json.dumps({"images": rows, "categories": []}))
    return path


def assert_upright(output, size_wh, box_xywh):
    """Each stored pixel has the colour of the place in the upright photo to which its matrix leads."""
    names = set()
    for card, box, _, jpeg in samples_of(output):
        stored = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), float)
        matrix = np.array(card["image_from_stored"])
        x = np.arange(stored.shape[1]) * matrix[0, 0] + matrix[0, 2]
        y = np.arange(stored.shape[0]) * matrix[1, 1] + matrix[1, 2]
        assert np.abs(stored[..., 0] - (40 + 3 * x)).max() < 12, card["file_name"]
        assert np.abs(stored[..., 1] - (20 + 4 * y)[:, None]).max() < 12, card["file_name"]
        assert card["source_size"] == list(size_wh)
        np.testing.assert_allclose(matrix[:, :2] @ box[:2] + matrix[:, 2], box_xywh[:2], atol=0.01)
        np.testing.assert_allclose(matrix[:, :2] @ box[2:], box_xywh[2:], atol=0.01)
        names.add(card["file_name"])
    assert len(names) == 8 * len(KINDS)
    truth = json.loads((output / "ground_truth.json").read_text())
    assert {(row["width"], row["height"]) for row in truth["images"]} == {size_wh}


def sources(folder, size_wh, tmp_path):
    """Every way to photos that nobody annotated, with the box that each person must have."""
    by_name = results(folder, tmp_path / "by_name.json", lambda _, name: {"file_name": name})
    by_id = results(folder, tmp_path / "by_id.json", lambda number, _: {"image_id": number})
    yield FolderFormat(images=folder), [0, 0, size_wh[0] - 1, size_wh[1] - 1]
    yield FolderFormat(images=folder, boxes=ResultsBoxes(results=by_name)), BOX_XYWH
    for number, said_wh in enumerate((size_wh, None)):
        listed = write_list(folder, tmp_path / f"list{number}.json", said_wh)
        yield FolderFormat(images=folder, boxes=ResultsBoxes(results=by_id, images=listed)), BOX_XYWH
        yield CocoFormat(annotations=listed, images=folder, boxes=Detections(results=by_id)), BOX_XYWH


def test_photos_that_nobody_annotated_are_upright(photos, tmp_path):
    folder, size_wh = photos
    for number, (source, box_xywh) in enumerate(sources(folder, size_wh, tmp_path)):
        output = tmp_path / f"out{number}"
        crop = WholePhoto() if number == 0 else PersonCrop(input_size_wh=(24, 32))
        settings = BuildSettings(source=source, output=output, crop=crop, workers=1)
        manifest = build(settings, console=Console(quiet=True))
        assert_upright(output, size_wh, box_xywh)
        assert manifest.problems == {TURNED: 7 * len(KINDS)}


def test_labels_of_yolo_pose_are_in_the_frame_of_the_upright_photo(tmp_path):
    """As Ultralytics reads them: each stored joint has the colour of its place in the upright picture."""
    sizes_wh = {f"{size_wh[0]}-{tag}.jpg": size_wh for size_wh in SIZES_WH for tag in (1, 3, 6, 8)}
    points = np.array([[40.0, 10.0], [46.0, 20.0], [38.0, 36.0]])
    x, y, width, height = BOX_XYWH
    for name, size_wh in sizes_wh.items():
        photo = tmp_path / name
        photo.write_bytes(encode(size_wh, int(photo.stem[-1])))
        seen = np.asarray(ImageOps.exif_transpose(Image.open(photo)))
        np.testing.assert_allclose(seen, ramp(size_wh), atol=12)
        box = np.array([x + width / 2, y + height / 2, width, height]) / np.tile(size_wh, 2)
        numbers = [0, *box, *np.insert(points / size_wh, 2, 2, axis=1).ravel()]
        photo.with_suffix(".txt").write_text(" ".join(map(str, numbers)))
    (tmp_path / "data.yaml").write_text("{train: ., kpt_shape: [3, 3], flip_idx: [0, 2, 1], names: [person]}")
    source, crop = YoloPoseFormat(data=tmp_path / "data.yaml"), PersonCrop(input_size_wh=(24, 32))
    settings = BuildSettings(source=source, output=tmp_path / "out", crop=crop, workers=1)
    assert build(settings, console=Console(quiet=True)).problems == {TURNED: 6}
    samples = list(samples_of(tmp_path / "out"))
    assert {card["file_name"]: tuple(card["source_size"]) for card, *_ in samples} == sizes_wh
    for card, _, keypoints, jpeg in samples:
        matrix = np.array(card["image_from_stored"])
        np.testing.assert_allclose(keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2], points, atol=0.01)
        stored = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), float)
        column, row = keypoints[:, :2].round().astype(int).T
        colours = 40 + 3 * points[:, 0], 20 + 4 * points[:, 1]
        np.testing.assert_allclose(stored[row, column, :2].T, colours, atol=12, err_msg=card["file_name"])


def test_every_orientation_is_that_of_the_standard():
    """Against Pillow's own turning; numbers beyond 8 mean nothing."""
    for kind in KINDS:
        for orientation in range(1, 10):
            payload = encode((64, 48), orientation, kind)
            turned = decode_photo(payload, size_wh=None, where="p", upright=True)
            np.testing.assert_allclose(turned.pixels, ramp((64, 48)), atol=12)
            stored = ramp((64, 48))
            if orientation in STORING:
                stored = np.asarray(Image.fromarray(stored).transpose(STORING[orientation]))
            kept = decode_photo(payload, size_wh=None, where="p")
            np.testing.assert_allclose(kept.pixels, stored, atol=12)
            assert turned.is_faithful == kept.is_faithful == (orientation == 1 and kind != "TIFF")
            assert photo_sizes(payload) == ((stored.shape[1], stored.shape[0]), (64, 48))


@pytest.mark.parametrize(("kind", "crop"), [("person", PersonCrop()), ("image", WholePhoto())])
def test_what_became_of_annotated_photos_is_counted(make_set, tmp_path, kind, crop):
    """In the manifest, in the table of the build and by check=only alike; the pixels are as they were."""
    small = make_set()
    for number, orientation in ((1, 3), (2, 6), (3, 6)):
        path = small.images / f"{number:012d}.jpg"
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.open(path)
        if number == 2:  # annotated upright
            image = image.transpose(STORING[orientation])
        image.save(path, exif=exif, quality=95)
    settings = small.settings(tmp_path / "out", kind=kind, crop=crop, samples_per_shard=3)
    shown = io.StringIO()
    manifest = build(settings, console=Console(file=shown, width=200))
    assert manifest.problems == {NOT_OBEYED: 2, OBEYED: 1}
    assert f"noted: {NOT_OBEYED}" in shown.getvalue()
    assert f"noted: {OBEYED}" in shown.getvalue()
    check(settings, console=Console(quiet=True))
    faults = json.loads((tmp_path / "out.check.json").read_text())["faults"]
    assert {fault["fault"]: fault["count"] for fault in faults} == manifest.problems


def test_a_build_that_goes_on_counts_as_one_that_was_not_stopped(make_set, tmp_path, monkeypatch):
    small = make_set()
    for path in sorted(small.images.iterdir())[:4]:
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.open(path).save(path, exif=exif, quality=95)
    whole = build(small.settings(tmp_path / "whole" / "s"), console=Console(quiet=True))
    settings = small.settings(tmp_path / "stopped" / "s")
    with monkeypatch.context() as patch:
        patch.setattr("semipose.sharding.build.write_ground_truth", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(settings, console=Console(quiet=True))
    assert build(settings, console=Console(quiet=True)).problems == whole.problems == {NOT_OBEYED: 4}


def test_a_detector_sees_the_upright_photo(photos):
    """The decoder of sharding/annotations/detector.py, whose boxes count in the same pixels."""
    folder, size_wh = photos
    location = open_photos(folder)
    for name in location.names():
        pixels = _decode(Photo(id=1, file_name=name, size_wh=size_wh), location)
        np.testing.assert_allclose(pixels, ramp(size_wh), atol=12)
