"""Unlabelled photos: the whole photo, boxes of a results file, boxes of a detector."""

import io
import json
import shutil
import zipfile

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torchvision.models import get_model

import semipose.sharding.annotations.detector
from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import AREA_OF_BOX, ResultsBoxes, WholePhotoBoxes
from semipose.sharding.annotations.detector import DetectorBoxes
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.folder import IS_LABELLED, FolderFormat
from semipose.sharding.annotations.skeleton import COCO_17, LSP_14, MPII_16, to_category
from semipose.sharding.build import build
from semipose.sharding.check.report import check
from semipose.sharding.settings import BuildSettings

SIZE_WH = (80, 60)
QUARTER_TURN = 6
SSD = "ssdlite320_mobilenet_v3_large"


def jpeg(seed: int = 0, size_wh=SIZE_WH, orientation: int | None = None) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Photos 12, 3 in a sub-folder, and one without a number; a file that is no photo."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("000000000012.jpg", "sub/COCO_val_0003.jpg", "me.png")):
        (folder / name).write_bytes(jpeg(seed))
    (folder / "notes.txt").write_text("no photo")
    return folder


NAMES = ["000000000012.jpg", "me.png", "sub/COCO_val_0003.jpg"]


def read(photos, boxes=None, **settings):
    boxes = boxes or WholePhotoBoxes()
    return FolderFormat(images=photos, boxes=boxes, **settings).read()


class TestWhole:
    def test_each_photo_is_one_unlabelled_person(self, photos):
        annotations = read(photos)
        persons = annotations.persons
        assert [(p.id, p.image_id, p.file_name) for p in persons] == [(i, i, NAMES[i - 1]) for i in (1, 2, 3)]
        for person in persons:
            assert person.box_xywh == (0, 0, 79, 59)
            assert person.area == pytest.approx(AREA_OF_BOX * 79 * 59)
            assert person.source_size_wh == SIZE_WH
            assert person.keypoints.shape == (17, 3)
            assert not person.keypoints.any()
        assert annotations.skeleton is COCO_17
        assert annotations.findings.counts("stops", "dropped", "corrected", "kept") == {}

    def test_files_that_are_passed_over_are_counted(self, photos, tmp_path):
        """By the build and by check=only; JPEGs have several suffixes. What is hidden does not count."""
        names = "a.jpe", "sub/b.JFIF", "sub/c.heic", "d.gif", "e.HEIC", "f", ".DS_Store", "bad\udcff.txt"
        for name in names:
            (photos / name).write_bytes(jpeg(9))
        said = "2 .heic, 2 .txt, 1 .gif, 1 without a suffix"
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
            for path in [*photos.rglob("*.*"), photos / "f"]:
                file.write(path, ascii(str(path.relative_to(tmp_path))).strip("'"))
        memory = fsspec.filesystem("memory")
        for name in (*NAMES, "a.jpe", "sub/b.jfif", "c.heic", "d.heic", "e.gif", "f", "g.txt", "h.txt"):
            memory.pipe(f"/photos/{name}", jpeg())
        for location in (photos, tmp_path / "photos.zip", "memory://photos"):
            settings = BuildSettings(source=FolderFormat(images=location), output=tmp_path / "s", workers=1)
            shown = io.TextIOWrapper(io.BytesIO(), "utf-8")  # as a terminal, it takes no other text
            manifest = build(settings, console=Console(file=shown, width=200))
            assert manifest.num_samples == 5
            assert manifest.problems == {}
            assert (
                f"passed over: file without the suffix of a photo ({said})"
                in shown.buffer.getvalue().decode()
            )
            check(settings, console=Console(file=shown, width=200))
            faults = json.loads((tmp_path / "s.check.json").read_text())["faults"]
            (fault,) = (each for each in faults if each["effect"] == "passed over")
            assert (fault["count"], fault["detail"]) == (6, said)
            # The pictures of this test are mostly one picture, which check=only says as well.
            assert {each["effect"] for each in faults} <= {"passed over", "kept", "warned"}
            shutil.rmtree(tmp_path / "s")

    def test_other_files_decide_nothing_of_the_shards(self, photos, tmp_path):
        settings = BuildSettings(source=FolderFormat(images=photos), output=tmp_path / "s", workers=1)
        first = build(settings, console=Console(quiet=True))
        (photos / "Thumbs.db").write_bytes(b"")
        assert build(settings, console=Console(quiet=True)) == first

    def test_a_folder_of_other_files(self, photos):
        for path in photos.rglob("*.*"):
            path.rename(path.with_suffix(".heic"))
        with pytest.raises(InputError, match=r"no photos here, but files .* \(4 \.heic\): correct source"):
            read(photos)

    def test_from_a_zip(self, photos, tmp_path):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
            for name in NAMES:
                file.write(photos / name, f"photos/{name}")
        assert [person.file_name for person in read(tmp_path / "photos.zip").persons] == NAMES

    def test_a_turned_photo_has_its_upright_size(self, photos):
        (photos / "me.png").write_bytes(jpeg(orientation=QUARTER_TURN))
        assert read(photos).persons[1].source_size_wh == SIZE_WH[::-1]

    def test_what_is_no_image_is_named(self, photos):
        (photos / "me.png").write_bytes(b"text")
        (photos / "cut.jpg").write_bytes(jpeg()[:100])
        annotations = read(photos)
        assert len(annotations.persons) == 2
        with pytest.raises(
            InputError, match=r"photos: photo cut\.jpg: the file is no image that can be read \(.*me\.png"
        ):
            annotations.findings.raise_errors()

    @pytest.mark.parametrize("leads_to", ["../me.png", "nothing.jpg"])
    def test_a_link_that_cannot_be_followed_is_named(self, photos, leads_to):
        """Its size is not known, so that without a fault nobody would miss its person."""
        (photos / "me.png").rename(photos.parent / "me.png")
        (photos / "me.png").symlink_to(leads_to)
        with pytest.raises(InputError, match=r"photo me\.png: the file cannot be read \(.*remove it"):
            read(photos).findings.raise_errors()

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(InputError, match="there are no photos here"):
            read(tmp_path)


def labels(folder, *names, images):
    """The labelled set of a folder format: one person with one labelled keypoint in each named photo."""
    listed = [{"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(names)]
    row = {"category_id": 1, "bbox": [5, 5, 50, 50], "area": 2500, "keypoints": [9, 9, 2] * 17}
    people = [{**row, "id": image["id"], "image_id": image["id"]} for image in listed]
    people[-1]["keypoints"] = [0, 0, 0] * 17  # nothing is labelled
    path = folder / "labels.json"
    content = {"images": listed, "annotations": people, "categories": [to_category(COCO_17)]}
    path.write_text(json.dumps(content))
    return CocoStyleFormat(annotations=path, images=images)


class TestLabelled:
    def test_photos_of_labelled_people_are_left_out(self, photos, tmp_path):
        labelled = labels(tmp_path, "./me.png", "sub/COCO_val_0003.jpg", images=photos)
        annotations = read(photos, labelled=labelled)
        assert [person.file_name for person in annotations.persons] == [NAMES[0], NAMES[2]]
        assert annotations.findings.ids(IS_LABELLED) == ["me.png"]

    def test_in_another_folder_only_copies_of_them_are(self, photos, tmp_path):
        """Another photo of the same name stays, and so does one whose labelled photo is not there."""
        others = tmp_path / "others"
        (others / "sub").mkdir(parents=True)
        shutil.copy(photos / "me.png", others)
        (others / NAMES[0]).write_bytes(jpeg(8))
        labelled = labels(tmp_path, *NAMES, "more.jpg", images=others)
        assert [person.file_name for person in read(photos, labelled=labelled).persons] == [
            NAMES[0],
            NAMES[2],
        ]

    def test_in_a_folder_above_or_below_only_copies_of_them_are(self, photos, tmp_path):
        """The labelled set names sub/x.jpg and other/x.jpg, and the photos of sub are the unlabelled ones."""
        name = NAMES[2]
        assert name.startswith("sub/")
        other = photos / name.replace("sub/", "other/")
        other.parent.mkdir()
        other.write_bytes(jpeg(8))
        labelled = labels(tmp_path, name, other.relative_to(photos).as_posix(), "me.png", images=photos)
        for folder in (photos / "sub", other.parent):
            annotations = read(folder, labelled=labelled)
            assert other.name not in [person.file_name for person in annotations.persons]
            assert annotations.findings.ids(IS_LABELLED) == [other.name]
        (photos / "more").mkdir()
        (photos / "more" / other.name).write_bytes(jpeg(10))
        assert len(read(photos / "more", labelled=labelled).persons) == 1

    def test_labels_that_cannot_be_read_are_refused(self, photos, tmp_path):
        labelled = labels(tmp_path, *NAMES, images=photos)
        content = json.loads(labelled.annotations.read_text())
        content["annotations"][0]["image_id"] = 99
        labelled.annotations.write_text(json.dumps(content))
        with pytest.raises(InputError, match="annotation 0: it names an image"):
            read(photos, labelled=labelled)


class TestSkeleton:
    def test_of_a_known_set(self, photos):
        annotations = read(photos, skeleton="mpii")
        assert annotations.skeleton is MPII_16
        assert annotations.persons[0].keypoints.shape == (16, 3)

    def test_of_a_coco_form_file(self, photos, tmp_path):
        (tmp_path / "mine.json").write_text(json.dumps({"categories": [to_category(LSP_14)], "images": 1}))
        assert read(photos, skeleton=str(tmp_path / "mine.json")).skeleton == LSP_14

    def test_of_a_file_without_names_leads_to_the_ground_truth_of_the_labelled_set(self, photos, tmp_path):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"categories": [{"id": 1, "name": "cat", "keypoints": []}]}))
        with pytest.raises(
            InputError, match=r"names no keypoints: .*source\.skeleton=SHARDS/ground_truth\.json"
        ):
            read(photos, skeleton=str(path))
        crossed = {
            "id": 1,
            "name": "cat",
            "keypoints": ["left_eye", "right_eye", "tail"],
            "flip_pairs": [[0, 2]],
        }
        path.write_text(json.dumps({"categories": [crossed]}))
        with pytest.raises(InputError, match="contradicts the names"):
            read(photos, skeleton=str(path))

    def test_that_is_neither(self, photos, tmp_path):
        (tmp_path / "list.json").write_text("[]")
        with pytest.raises(
            InputError, match=r"list\.json: this is not a COCO-form file .*one of coco, lsp, mpii"
        ):
            read(photos, skeleton=str(tmp_path / "list.json"))
        with pytest.raises(InputError, match="halpe: the annotations cannot be read"):
            read(photos, skeleton="halpe")


@pytest.fixture
def results(tmp_path):
    def write(rows, **settings):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(rows))
        return ResultsBoxes(results=path, **settings)

    return write


def box(x, y, w, h, score=0.9, category=1, **photo):
    return {**photo, "bbox": [x, y, w, h], "score": score, "category_id": category}


class TestResults:
    def test_belong_to_the_photo_of_the_number_or_the_name(self, photos, results):
        rows = [
            box(1, 2, 10, 20, image_id=3),
            box(1, 2, 11, 20, image_id=12, score=0.5),
            box(1, 2, 12, 20, image_id=12, score=0.8),
            box(1, 2, 13, 20, image_id="me"),
            box(1, 2, 14, 20, file_name="me.png", image_id=12),
            {"bbox": [1, 2, 15, 20], "file_name": "me.png"},
        ]
        annotations = read(photos, results(rows))
        annotations.findings.raise_errors()
        found = [(person.id, person.file_name, person.box_xywh[2]) for person in annotations.persons]
        names = [NAMES[0]] * 2 + [NAMES[1]] * 3 + [NAMES[2]]
        assert found == list(zip(range(1, 7), names, (11, 12, 13, 14, 15, 10), strict=True))
        assert not any(person.keypoints.any() for person in annotations.persons)

    def test_are_chosen_by_score_and_category(self, photos, results):
        rows = [box(1, 2, 10 + i, 20, i / 10, 1 + i % 2, image_id=12) for i in range(6)]
        kept = read(photos, results(rows, min_score=0.4)).persons
        assert [person.box_xywh[2] for person in kept] == [14]
        assert len(read(photos, results(rows)).persons) == 3
        assert len(read(photos, results(rows, category=2)).persons) == 3

    def test_are_clipped_to_the_photo(self, photos, results):
        rows = [
            box(-5, -6, 200, 20.5, image_id=12),
            box(90, 2, 5, 5, image_id=12),
            box(1, 1, 0, 5, image_id=12),
        ]
        annotations = read(photos, results(rows))
        assert [person.box_xywh for person in annotations.persons] == [(0, 0, 79, 14.5)]
        assert annotations.findings.counts("dropped") == {"box empty or outside the photo": 2}
        assert [photo.file_name for photo in annotations.empty_photos] == NAMES[1:]

    def test_of_photos_that_are_not_there(self, photos, results):
        annotations = read(photos, results([box(1, 2, 3, 4, image_id=12), box(1, 2, 3, 4, image_id=99)]))
        assert annotations.findings.counts("dropped") == {"box of a photo that is not there": 1}
        with pytest.raises(
            InputError, match=r"results\.json: none of its photos is in .*source\.boxes\.images"
        ):
            read(photos, results([box(1, 2, 3, 4, image_id=99)]))

    def test_of_two_photos_with_one_number(self, photos, results):
        (photos / "x_12.jpg").write_bytes(jpeg())
        annotations = read(photos, results([box(1, 2, 3, 4, image_id=12), box(1, 2, 3, 4, image_id=3)]))
        with pytest.raises(
            InputError, match=r"box in row 1: two photos have this number .*source\.boxes\.images"
        ):
            annotations.findings.raise_errors()

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"image_id": 12, "bbox": [1, 2, 3]}, r"box in row 2: bbox must be 4 numbers \(found 3\)"),
            ({"image_id": 12}, "box in row 2: object missing required field `bbox`"),
            ({"image_id": 12, "bbox": [1, 2, 3, "wide"]}, "box in row 2: bbox.*expected `float`, got `str`"),
        ],
    )
    def test_faults_name_file_and_row(self, photos, results, row, words):
        annotations = read(photos, results([box(1, 2, 3, 4, image_id=12), row]))
        with pytest.raises(InputError, match=words) as error:
            annotations.findings.raise_errors()
        assert "results.json: " in str(error.value)

    def test_another_file(self, photos, results):
        with pytest.raises(InputError, match=r"results\.json: this is not a list of COCO results"):
            read(photos, results({"images": []}))

    def test_with_a_list_of_photos(self, photos, results, tmp_path):
        listed = [
            {"id": 7, "file_name": "me.png", "width": 50, "height": 40, "license": 1},
            {"id": 5, "file_name": "sub/COCO_val_0003.jpg"},
            {"id": 12, "file_name": "absent.jpg", "width": 50, "height": 40},
            {"id": 12, "file_name": "absent.jpg", "width": 50, "height": 40},
        ]
        (tmp_path / "info.json").write_text(json.dumps({"images": listed, "info": {}}))
        rows = [box(1, 2, 300, 4, image_id=12), box(1, 2, 300, 4, image_id=7), box(1, 2, 300, 4, image_id=5)]
        annotations = read(photos, results(rows, images=tmp_path / "info.json"))
        facts = [(p.image_id, p.file_name, p.source_size_wh, p.box_xywh[2]) for p in annotations.persons]
        assert facts == [
            (7, "me.png", (50, 40), 48),
            (5, "sub/COCO_val_0003.jpg", SIZE_WH, 78),
            (12, "absent.jpg", (50, 40), 48),
        ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A detector with random weights that takes everything for people (label 1)."""
    torch.manual_seed(0)
    model = get_model(SSD, weights=None, weights_backbone=None)
    with torch.no_grad():
        for head in model.head.classification_head.module_list:
            head[-1].bias.view(-1, 91)[:, 1] += 4
    path = tmp_path_factory.mktemp("weights") / "ssd.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def detector(weights, tmp_path):
    def make(**settings):
        made = {
            "cache": tmp_path / "found" / "boxes.json",
            "model": SSD,
            "weights": str(weights),
            "device": "cpu",
        }
        return DetectorBoxes(**{**made, "batch_size": 2, "min_score": 0.1, **settings})

    return make


def count_photos(monkeypatch):
    """The names of the photos that are decoded for the detector from now on."""
    decoded = []
    decode = semipose.sharding.annotations.detector._decode
    monkeypatch.setattr(
        semipose.sharding.annotations.detector,
        "_decode",
        lambda photo, photos: decoded.append(photo.file_name) or decode(photo, photos),
    )
    return decoded


class TestDetector:
    def test_boxes_are_those_of_the_model(self, photos, detector, weights):
        annotations = read(photos, detector())
        model = get_model(SSD, weights=None, weights_backbone=None).eval()
        model.load_state_dict(torch.load(weights, weights_only=True))
        pixels = np.asarray(Image.open(photos / "me.png")).copy()
        with torch.inference_mode():
            (output,) = model([torch.from_numpy(pixels).permute(2, 0, 1) / 255])
        sure = (output["labels"] == 1) & (output["scores"] >= 0.1)
        corners = output["boxes"][sure].numpy().clip(0, np.array(SIZE_WH * 2) - 1)
        persons = [person for person in annotations.persons if person.file_name == "me.png"]
        assert len(persons) == len(corners) > 0
        expected = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        np.testing.assert_allclose([person.box_xywh for person in persons], expected, atol=0.02)
        assert {person.file_name for person in annotations.persons} == set(NAMES)

    def test_a_damaged_photo_stops_it_before_the_work(self, photos, detector, monkeypatch, tmp_path):
        """Nobody would be found in the others either."""
        (photos / "me.png").write_bytes(b"")
        decoded = count_photos(monkeypatch)
        source = FolderFormat(images=photos, skeleton="coco", boxes=detector())
        settings = BuildSettings(source=source, output=tmp_path / "s", corrupt_images="skip", workers=1)
        with pytest.raises(InputError, match=r"me\.png: the file is no image .* a detector searches all"):
            build(settings, console=Console(quiet=True))
        assert not decoded

    def test_detects_once(self, photos, detector, monkeypatch):
        decoded = count_photos(monkeypatch)
        first = read(photos, detector())
        assert sorted(decoded) == NAMES
        again = read(photos, detector(batch_size=3))
        assert sorted(decoded) == NAMES
        assert [p.box_xywh for p in again.persons] == [p.box_xywh for p in first.persons]
        rows = json.loads(detector().cache.read_text())["annotations"]
        assert {"image_id", "category_id", "bbox", "score"} <= set(rows[0])
        assert [path.name for path in detector().cache.parent.iterdir()] == ["boxes.json"]

    def test_cache_can_be_read_as_results(self, photos, detector):
        first = read(photos, detector())
        again = read(photos, ResultsBoxes(results=detector().cache))
        assert [p.box_xywh for p in again.persons] == [p.box_xywh for p in first.persons]

    def test_goes_on_from_where_it_was_stopped(self, photos, detector, monkeypatch):
        whole = read(photos, detector(cache=photos.parent / "whole.json"))
        with monkeypatch.context() as patch:
            patch.setattr(semipose.sharding.annotations.detector, "_results", fail_at(NAMES[2]))
            with pytest.raises(KeyboardInterrupt):
                read(photos, detector())
        part = detector().cache.with_name("boxes.json.part")
        assert not detector().cache.exists()
        part.write_text(part.read_text() + '{"next": 3, "ro')
        decoded = count_photos(monkeypatch)
        annotations = read(photos, detector())
        assert decoded == NAMES[2:]
        assert [p.box_xywh for p in annotations.persons] == [p.box_xywh for p in whole.persons]
        assert detector().cache.read_bytes() == (photos.parent / "whole.json").read_bytes()

    def test_cache_of_something_else_is_refused(self, photos, detector):
        read(photos, detector())
        with pytest.raises(
            InputError, match=r"boxes\.json: .*other settings or in other photos \(min_score\)"
        ):
            read(photos, detector(min_score=0.2))
        (photos / "new.jpg").write_bytes(jpeg())
        with pytest.raises(InputError, match=r"boxes\.json: .*\(photos, names_sha256\): remove the file"):
            read(photos, detector())
        detector().cache.write_text("[]")
        with pytest.raises(InputError, match=r"boxes\.json: this exists, but holds no boxes of a detector"):
            read(photos, detector())

    def test_a_damaged_photo_is_named(self, photos, detector):
        payload = (photos / "me.png").read_bytes()
        (photos / "me.png").write_bytes(payload[: len(payload) // 2])
        with pytest.raises(
            InputError, match=r"me\.png: the image is damaged .*: replace or remove it and start"
        ):
            read(photos, detector())

    def test_models_and_weights_that_do_not_fit(self, photos, detector, tmp_path):
        with pytest.raises(InputError, match=f"no detector 'resnet50': choose one of .*{SSD}"):
            read(photos, detector(model="resnet50"))
        with pytest.raises(InputError, match=r"nowhere is neither a file nor .* one of COCO_V1, DEFAULT"):
            read(photos, detector(weights="nowhere"))
        torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
        with pytest.raises(InputError, match=rf"other\.pt cannot be loaded into {SSD} \(.*: give the path"):
            read(photos, detector(weights=str(tmp_path / "other.pt")))


def fail_at(name):
    results = semipose.sharding.annotations.detector._results

    def fail(photo, output, cfg):
        if photo.file_name == name:
            raise KeyboardInterrupt
        return results(photo, output, cfg)

    return fail


def test_real_photos_with_detector_boxes(shared_data):
    folder = shared_data / "crowdpose"
    path = folder / "test_crowdpose_det_AP_40.json"
    annotations = read(folder / "images", ResultsBoxes(results=path), skeleton="crowdpose")
    annotations.findings.raise_errors()
    rows = json.loads(path.read_text())
    assert len(annotations.persons) == len(rows) == 6
    for person in annotations.persons:
        number = int(person.file_name.removesuffix(".jpg"))
        left, top, width, height = person.box_xywh
        published = [row["bbox"] for row in rows if row["image_id"] == number]
        near = [np.abs(np.subtract(each, person.box_xywh)).max() for each in published]
        assert min(near) < 5  # px, by which clipping moves them
        assert left + width <= person.source_size_wh[0] - 1
        assert top + height <= person.source_size_wh[1] - 1
