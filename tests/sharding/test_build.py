import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import semipose.sharding.annotations.formats.lsp
import semipose.sharding.build
import semipose.sharding.samples.worker
from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.build import BuildSettings, build, main
from semipose.sharding.check.report import check
from semipose.sharding.check.verify import verify_command
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.samples.person import decode_pose
from semipose.sharding.store.index import read_index
from semipose.sharding.store.manifest import check_shards, read_manifest
from tests.tars import stored_samples


@pytest.fixture
def small(make_set):
    return make_set()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "shards" / "small"


def ids_of(folder):
    return [json.loads(members["json"])["id"] for _, members in stored_samples(folder)]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestContent:
    def test_samples_are_whole_and_in_order(self, small, output, quiet):
        manifest = build(small.settings(output), console=quiet)
        assert [shard.file for shard in manifest.shards] == [f"small-{i:06d}.tar" for i in range(3)]
        assert [shard.samples for shard in manifest.shards] == [4, 4, 2]
        samples = stored_samples(output)
        assert [key for key, _ in samples] == [f"{i:09d}" for i in range(10)]
        assert {tuple(sorted(members)) for _, members in samples} == {("jpg", "json", "pose")}
        assert ids_of(output) == [row["id"] for row in small.content["annotations"]]
        assert [len(read_index(output / shard.idx_file)) for shard in manifest.shards] == [4, 4, 2]

    def test_points_read_back_are_the_annotations(self, small, output, quiet):
        build(small.settings(output), console=quiet)
        rows = {row["id"]: row for row in small.content["annotations"]}
        for _, members in stored_samples(output):
            card = json.loads(members["json"])
            row = rows[card["id"]]
            assert (card["area"], card["source_size"]) == (row["area"], [200, 150])
            assert card["file_name"] == f"{row['image_id']:012d}.jpg"
            box, keypoints = decode_pose(members["pose"], 17)
            matrix = np.array(card["image_from_stored"])
            annotated = np.array(row["keypoints"]).reshape(17, 3)
            np.testing.assert_array_equal(keypoints[:, 2], annotated[:, 2])
            back = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
            labelled = annotated[:, 2] > 0
            np.testing.assert_allclose(back[labelled], annotated[labelled, :2], atol=1e-3)
            assert box[2] * matrix[0, 0] == pytest.approx(row["bbox"][2] - 1, abs=1e-3)

    def test_pixels_are_those_of_the_photo(self, small, output, quiet):
        build(small.settings(output), console=quiet)
        members = stored_samples(output)[0][1]
        card = json.loads(members["json"])
        stored = np.asarray(Image.open(io.BytesIO(members["jpg"])), int)
        photo = np.asarray(Image.open(small.images / card["file_name"]), int)
        (a, _, left), (_, d, top) = card["image_from_stored"]
        assert (a, d) == (1, 1)
        region = photo[int(top) : int(top) + stored.shape[0], int(left) : int(left) + stored.shape[1]]
        assert np.abs(stored - region).mean() < 2

    def test_members_are_ustar_with_fixed_times_and_owners(self, small, output, quiet):
        build(small.settings(output), console=quiet)
        with tarfile.open(output / "small-000000.tar") as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                assert member.pax_headers == {}

    def test_same_input_gives_the_same_bytes(self, small, tmp_path, quiet):
        build(small.settings(tmp_path / "one" / "small"), console=quiet)
        build(small.settings(tmp_path / "two" / "small"), console=quiet)
        assert files_of(tmp_path / "one" / "small") == files_of(tmp_path / "two" / "small")

    @pytest.mark.parametrize("order", ["file", "shuffle"])
    def test_photo_is_decoded_once_for_its_persons(self, small, output, quiet, monkeypatch, order):
        calls = []
        real = semipose.sharding.samples.worker.decode_photo
        monkeypatch.setattr(
            semipose.sharding.samples.worker, "decode_photo", lambda *a, **k: calls.append(1) or real(*a, **k)
        )
        build(small.settings(output, order=order, samples_per_shard=3), console=quiet)
        assert len(calls) == 5

    def test_whole_photos(self, small, output, quiet):
        build(small.settings(output, crop=WholePhoto()), console=quiet)
        members = stored_samples(output)[3][1]
        card = json.loads(members["json"])
        assert members["jpg"] == (small.images / card["file_name"]).read_bytes()
        assert card["image_from_stored"] == [[1, 0, 0], [0, 1, 0]]

    def test_photo_that_a_reader_would_turn_is_encoded_anew(self, small, output, quiet):
        path = small.images / small.content["images"][0]["file_name"]
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.open(path).save(path, exif=exif)
        build(small.settings(output, crop=WholePhoto()), console=quiet)
        stored = Image.open(io.BytesIO(stored_samples(output)[0][1]["jpg"]))
        assert stored.getexif().get(0x0112, 1) == 1
        seen, source = (np.asarray(image, int) for image in (stored, Image.open(path)))
        assert np.abs(seen - source).mean() < 3


class TestOrder:
    def test_shuffle_is_decided_by_its_seed(self, small, tmp_path, quiet):
        orders = []
        for number, (order, seed) in enumerate([("file", 0), ("shuffle", 1), ("shuffle", 1), ("shuffle", 2)]):
            folder = tmp_path / str(number) / "x"
            build(small.settings(folder, order=order, seed=seed), console=quiet)
            orders.append(ids_of(folder))
        assert orders[1] == orders[2]
        assert len({tuple(order) for order in orders}) == 3
        assert all(sorted(order) == orders[0] for order in orders)

    def test_limit_takes_the_first_persons(self, small, output, quiet):
        assert build(small.settings(output, limit=3), console=quiet).num_samples == 3
        assert ids_of(output) == [10, 11, 20]
        truth = json.loads((output / "ground_truth.json").read_text())
        assert [row["id"] for row in truth["annotations"]] == [10, 11, 20]
        assert [row["id"] for row in truth["images"]] == [1, 2]


class TestOutput:
    def test_second_build_does_nothing(self, small, output, quiet):
        first = build(small.settings(output), console=quiet)
        stamps = {path: path.stat().st_mtime_ns for path in output.iterdir()}
        assert build(small.settings(output), console=quiet) == first
        assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == stamps

    @pytest.mark.parametrize("damage", ["tar", "idx", "ground_truth.json"])
    def test_damaged_shards_are_made_again(self, small, output, quiet, damage):
        build(small.settings(output), console=quiet)
        before = files_of(output)
        victim = next(path for path in output.iterdir() if path.name.endswith(damage))
        victim.write_bytes(victim.read_bytes()[:-600] + bytes(600))
        build(small.settings(output), console=quiet)
        assert files_of(output) == before
        assert [path.name for path in output.parent.iterdir()] == ["small"]

    @pytest.mark.parametrize("change", ["settings", "annotations"])
    def test_shards_of_another_build_stay(self, small, output, quiet, change):
        build(small.settings(output), console=quiet)
        before = files_of(output)
        if change == "annotations":
            small.content["annotations"][0]["keypoints"][0] += 1
            small.save()
        other = small.settings(output, samples_per_shard=5 if change == "settings" else 4)
        with pytest.raises(InputError, match="made from other annotations or settings"):
            build(other, console=quiet)
        assert files_of(output) == before

    @pytest.mark.parametrize("is_file", [True, False])
    def test_anything_else_stays(self, small, output, quiet, is_file):
        mine = output if is_file else output / "thesis.txt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        with pytest.raises(
            InputError, match="small: this exists, but it is not what this build makes: remove it"
        ):
            build(small.settings(output), console=quiet)
        assert mine.read_text() == "mine"

    @pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\udcffb"])
    def test_names_that_no_tar_can_have_are_refused_before_the_work(self, small, output, quiet, name):
        small.annotations.unlink()
        with pytest.raises(
            InputError, match="the tars cannot have this name, because it contains a backslash"
        ):
            build(small.settings(output.with_name(name)), console=quiet)

    def test_names_that_no_command_takes_are_refused_before_the_work(self, small, output):
        """Over http they are read: tests/pipelines/test_hostile_streams.py."""
        for name, is_told in (("my set", True), ("set[1]", True), ("ä", True), ("train_2017.v1", False)):
            shown = io.StringIO()
            build(small.settings(output.with_name(name)), console=Console(file=shown, width=200))
            assert shown.getvalue().startswith(f"note: tars named {name!r} can be read from") == is_told

    def test_names_that_look_like_markup_are_printed_as_they_are(self, small, output, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "300")
        output = output.with_name("[bold] set")
        for when, of_table in (("only", small.annotations), ("first", output), ("first", None)):
            main(small.settings(output, check=when))
            told = capsys.readouterr().out
            assert str(of_table or f"{output} exists already") in told
            assert when == "first" or f"all ids: {output}.check.json" in told
            assert of_table != output or "sharding [bold] set " in told
        verify_command([f"verify={output}", "workers=1"])
        assert f"{output}: 10 samples" in capsys.readouterr().out

    def test_empty_folder_is_filled(self, small, output, quiet):
        output.mkdir(parents=True)
        build(small.settings(output), console=quiet)
        check_shards(output, read_manifest(output))


class TestFaults:
    def stops(self, small, output, quiet, words):
        with pytest.raises(InputError, match=words) as error:
            build(small.settings(output), console=quiet)
        assert "\n" not in str(error.value)
        assert not output.exists()

    def test_absent_photo(self, small, output, quiet):
        (small.images / "000000000003.jpg").unlink()
        self.stops(
            small, output, quiet, r"000000000003\.jpg: annotation 30 names this photo, but the file is absent"
        )
        manifest = build(small.settings(output, missing_images="skip"), console=quiet)
        assert manifest.dropped == {"photo absent": 2}
        assert ids_of(output) == [10, 11, 20, 21, 40, 41, 50, 51]

    @pytest.mark.parametrize(
        ("named", "there"),
        [
            ("000000000003.JPG", "000000000003.jpg"),
            ("images/000000000003.jpg", "000000000003.jpg"),
            ("/data/upload/000000000003.JPG", "000000000003.jpg"),
        ],
    )
    def test_absent_photo_of_nearly_that_name(self, small, output, quiet, named, there):
        row = small.content["images"][2]
        assert row["file_name"] == there
        row["file_name"] = named
        small.save()
        self.stops(small, output, quiet, rf"{named}.*\({there} is there\)")

    def test_absent_photo_beyond_the_limit_does_not_matter(self, small, output, quiet):
        (small.images / "000000000003.jpg").unlink()
        assert build(small.settings(output, limit=4), console=quiet).num_samples == 4

    def test_limit_counts_the_persons_that_are_there(self, small, output, quiet):
        (small.images / "000000000001.jpg").unlink()
        build(small.settings(output, limit=3, missing_images="skip"), console=quiet)
        assert ids_of(output) == [20, 21, 30]

    def test_corrupt_photo(self, small, output, quiet):
        path = small.images / "000000000004.jpg"
        path.write_bytes(path.read_bytes()[:-50])
        self.stops(small, output, quiet, r"000000000004\.jpg \(annotation 40\): the image is damaged .*skip")
        manifest = build(small.settings(output, corrupt_images="skip"), console=quiet)
        assert manifest.dropped == {"photo damaged": 2}
        assert [path.name for path in output.parent.iterdir()] == ["small"]
        assert ids_of(output) == [10, 11, 20, 21, 30, 31, 50, 51]
        truth = json.loads((output / "ground_truth.json").read_text())
        assert 4 not in {row["id"] for row in truth["images"]}

    @pytest.mark.parametrize("content", [b"", b"text"], ids=["empty", "no image"])
    def test_a_damaged_photo_without_a_size_in_its_row_is_left_out_too(self, small, output, quiet, content):
        for row in small.content["images"]:
            del row["width"], row["height"]
        small.save()
        path = small.images / "000000000004.jpg"
        whole = path.read_bytes()
        path.write_bytes(content)
        source = CocoStyleFormat(annotations=small.annotations, images=small.images)
        words = r"000000000004\.jpg: the file is no image that can be read .*skip"
        changes = {"source": source, "corrupt_images": "skip"}
        with pytest.raises(InputError, match=words):
            build(small.settings(output, source=source), console=quiet)
        with pytest.raises(InputError, match="no image that can be read"):
            check(small.settings(output, source=source), console=quiet)
        check(small.settings(output, **changes), console=quiet)
        manifest = build(small.settings(output, **changes), console=quiet)
        assert manifest.dropped == {"the file is no image that can be read": 1}
        assert ids_of(output) == [10, 11, 20, 21, 30, 31, 50, 51]
        assert build(small.settings(output, **changes), console=quiet) == manifest
        path.write_bytes(whole)
        with pytest.raises(InputError, match="remove it or choose another"):
            build(small.settings(output, **changes), console=quiet)

    def test_photo_of_another_size(self, small, output, quiet):
        small.content["images"][1]["width"] = 201
        small.save()
        self.stops(small, output, quiet, "the image is 200x150, but it was annotated at 201x150")

    def test_mistyped_photo_folder(self, small, output, quiet):
        small.images.rename(small.folder / "pictures")
        self.stops(small, output, quiet, r"images: no such folder of photos: correct the path")

    def test_box_outside_a_photo_of_unknown_size(self, shared_data, output, quiet, monkeypatch):
        """LSP gives no sizes, so only the photo shows that a box is beyond it."""
        folder = shared_data / "lspet"
        source = LspFormat(joints=folder / "joints.mat", images=folder / "images", last=1)
        real = semipose.sharding.annotations.formats.lsp.joint_box
        monkeypatch.setattr(
            "semipose.sharding.annotations.formats.lsp.joint_box", lambda *a: (9000.0, *real(*a)[1:])
        )
        with pytest.raises(InputError, match=r"im00001\.jpg: the box of annotation 1 is outside the photo"):
            build(BuildSettings(source=source, output=output, workers=1), console=quiet)

    def test_nobody_left(self, small, output, quiet):
        small.content["annotations"] = []
        small.save()
        self.stops(small, output, quiet, "no person is left to store")

    def test_early_fault_leaves_nothing(self, small, output, quiet):
        (small.images / "000000000001.jpg").write_bytes(b"")
        self.stops(small, output, quiet, "the image is damaged")
        assert not list(output.parent.iterdir())


def test_command_builds_and_exits_2_on_bad_input(small, output):
    root = Path(semipose.sharding.build.__file__).parents[1]
    recipe = small.folder / "recipe.yaml"
    recipe.write_text(
        f"source: {{name: coco, annotations: {small.annotations}, images: {small.images}}}\n"
        f"output: {output}\n"
    )

    def run(*words):
        script = [sys.executable, str(root / "sharding" / "build.py"), str(recipe), *words]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            script, cwd=small.folder, env=environment, capture_output=True, text=True, check=False
        )

    wrong = run(f"source.annotations={small.folder}/annotation.json")
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert "annotation.json: the annotations cannot be read" in wrong.stderr
    assert not output.parent.exists()
    right = run()
    assert right.returncode == 0, right.stderr
    assert "10 (person) of 5 photos" in right.stdout
    check_shards(output, read_manifest(output))


def test_real_coco(shared_data, output, quiet):
    folder = shared_data / "coco"
    source = CocoFormat(
        annotations=folder / "annotations" / "person_keypoints_val2017_joined.json",
        images=folder / "images" / "val2017",
    )
    assert build(BuildSettings(source=source, output=output), console=quiet).num_samples == 619


def test_real_lspet(shared_data, output, quiet):
    folder = shared_data / "lspet"
    source = LspFormat(joints=folder / "joints.mat", images=folder / "images", first=4001, last=4050)
    manifest = build(BuildSettings(source=source, output=output), console=quiet)
    assert manifest.num_samples == 50
    assert manifest.skeleton.num_keypoints == 14
    truth = json.loads((output / "ground_truth.json").read_text())
    with Image.open(folder / "images" / "im04001.jpg") as photo:
        assert (truth["images"][0]["width"], truth["images"][0]["height"]) == photo.size


def test_nobody_left_names_each_reason_and_its_cure(small, output, quiet):
    """Where all people are dropped the one sentence says how to keep them, not only how many there were."""
    rows = small.content["annotations"]
    rows[0]["bbox"] = [500, 10, 30, 40]
    for row in rows[1:]:
        row["iscrowd"] = 1
    small.save()
    words = (
        rf"1 box empty or outside the photo \(write bbox as .*use=missing\)\); {len(rows) - 1} crowd: correct"
    )
    with pytest.raises(InputError, match=words) as error:
        build(small.settings(output), console=quiet)
    assert "\n" not in str(error.value)
