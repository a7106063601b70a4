"""What `semipose export` wrote finds in photos what its network finds."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from rich.console import Console

import semipose
from semipose.configs.errors import InputError
from semipose.configs.load import load
from semipose.export.command import ExportSettings, export
from semipose.pipelines.views import MEAN_RGB, STD_RGB
from semipose.predict.boxes import WholePhotos
from semipose.predict.command import name_of, predict_sources
from semipose.predict.exported import levels
from semipose.predict.predictor import Predictor
from semipose.predict.settings import PredictSettings
from semipose.predict.views import ViewMaker, cut_photo, fitted_view
from semipose.sharding.annotations.skeleton import LSP_14
from tests.semipose.models import ABSENT, image_model, needs_onnx, person_model, write_folder

QUIET = Console(quiet=True)
BOXES = [[5, 5, 40, 60], [30, 10, 50, 90]]
FILES = ["pose.pt2", *(pytest.param(name, marks=needs_onnx) for name in ("pose.onnx", "pose-int8.onnx"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three files of a model of single people."""
    settings = {"format": "pt2"} if ABSENT else {"format": "both", "precision": "int8"}
    folder = tmp_path_factory.mktemp("export")
    source = write_folder(folder / "mine", person_model(14, LSP_14))
    return export(str(source), ExportSettings(output=str(folder / "out"), views=8, **settings), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_an_exported_file_finds_the_people_of_its_network(
    folder: Path, file: str, write_photo, tmp_path
) -> None:
    """In boxes that reach beyond the photo, in batches of any size, with the names and the category."""
    photo = write_photo(tmp_path / "a.png", 70, 90)
    theirs = Predictor(person_model(14, LSP_14))(photo, boxes=BOXES)
    for batch_size in (1, 32):
        ours = semipose.load(folder / file, batch_size=batch_size)(photo, boxes=BOXES)
        assert ours.names == theirs.names
        assert ours.category == theirs.category == (7, "dancer")
        assert_allclose(ours.boxes, theirs.boxes)
        if "int8" not in file:  # integers move keypoints; how far is measured by the export
            assert_allclose(ours.xy, theirs.xy, atol=0.05)
            assert_allclose(ours.peaks, theirs.peaks, atol=1e-3)
            assert_allclose(ours.scores, theirs.scores, atol=1e-3)


@pytest.mark.slow
def test_the_folder_of_an_export_stands_for_its_network(folder: Path, write_photo, tmp_path) -> None:
    photo = write_photo(tmp_path / "a.png", 70, 90)
    theirs = Predictor(person_model(14, LSP_14))(photo, boxes=BOXES)
    assert_allclose(semipose.load(folder)(photo, boxes=BOXES).xy, theirs.xy, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dekr", "ae", "cid"])
def test_whole_photos_give_the_people_of_their_network(
    family: str, pt2_folder: Callable[[str], Path]
) -> None:
    """A photo of the size of the view is seen by both alike; twice as large, everybody is twice as far away.

    The network fills in the keypoints that `ae` did not find, an exported file does not.
    """
    model = image_model(family)
    small = np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((64, 64)))
    theirs = Predictor(model, min_score=1e-4)(pixels)
    pose = semipose.load(pt2_folder(family), min_score=1e-4)
    ours = pose(pixels)
    assert len(ours) == len(theirs) > 0
    assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
    is_found = ours.peaks > 0
    assert_allclose(ours.peaks[is_found], theirs.peaks[is_found], rtol=1e-4, atol=1e-5)
    assert_allclose(ours.xy[is_found], theirs.xy[is_found], atol=0.05)
    least = np.where(is_found[..., None], ours.xy, np.inf).min(1)
    assert_allclose(ours.boxes[:, :2], least, atol=1e-3)  # keypoints that are not found widen no box

    maker = ViewMaker((64, 64), "black")
    batch = maker.fitted_photos([cut_photo(pixels, 64)])
    maker.close()
    twice = replace(
        batch,
        image_from_view=torch.tensor([[[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]]),
        records=[{**record, "source_size": [128, 128]} for record in batch.records],
    )
    one, two = (pose.model.predict(each).points_xy for each in (batch, twice))
    assert_allclose((two + 0.5) / 2 - 0.5, one, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dekr", "ae", "cid"])
def test_nobody_is_found_beside_a_photo(family: str, pt2_folder: Callable[[str], Path]) -> None:
    """A wide photo leaves most of its view empty, where a network of random weights finds people, too."""
    pose = semipose.load(pt2_folder(family), min_score=1e-6)
    middles: dict[str, list[float]] = {"wide": [], "square": []}
    for seed in range(6):
        wide = np.random.default_rng(seed).integers(0, 256, (16, 64, 3), np.uint8)
        square = np.concatenate((wide, np.zeros((48, 64, 3), np.uint8)))  # the same view, all of it a photo
        for name, pixels in (("wide", wide), ("square", square)):
            found = pose(pixels)
            is_found = found.peaks > 0
            middles[name] += [*(np.where(is_found, found.xy[..., 1], 0).sum(1) / is_found.sum(1))]
    assert max(middles["wide"]) < 18 < max(middles["square"])


def test_a_photo_of_any_shape_fills_its_view_from_the_upper_left() -> None:
    """Its edges, half a pixel outside of the first and last centres, go to those of the view."""
    for size_wh, size_hw, shown_wh in (
        ((200, 100), (64, 64), (64, 32)),
        ((30, 90), (64, 128), (64 / 3, 64)),
        ((16, 8), (64, 128), (128, 64)),
    ):
        matrix = fitted_view(size_wh, size_hw)
        for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
            edge = np.multiply(corner, size_wh) - 0.5
            assert_allclose(matrix @ [*edge, 1], np.multiply(corner, shown_wh) - 0.5, atol=1e-9)


def test_what_a_view_shows_beyond_its_photo_is_the_border_of_the_model() -> None:
    maker = ViewMaker((64, 64), "black")
    batch = maker.fitted_photos([cut_photo(np.full((40, 80, 3), 200, np.uint8), 32)])
    maker.close()
    seen = levels(batch.image)[0]
    assert (seen[:31, :63] == 200).all()
    assert (seen[33:] == 0).all()
    assert_allclose(batch.image_from_view[0].numpy(), [[1.25, 0, 0.125], [0, 1.25, 0.125]], atol=1e-5)


def test_the_levels_of_a_view_are_had_back_exactly() -> None:
    every = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    back = levels((every / 255 - mean) / deviation)
    assert back.dtype == np.uint8
    assert np.array_equal(back, every.permute(0, 2, 3, 1).numpy())


@pytest.mark.slow
def test_the_command_writes_the_files_of_the_network_and_goes_on_with_them(
    folder: Path, write_photo, tmp_path, monkeypatch
) -> None:
    photos = [str(write_photo(tmp_path / "photos" / f"{i}.png", 60 + i, 80, seed=i)) for i in range(3)]
    monkeypatch.chdir(tmp_path)
    cfg = load(PredictSettings, None, ["people.name=whole"])
    output = predict_sources(str(folder / "pose.pt2"), photos, cfg, QUIET).path
    assert output == Path("predictions/out-pose-pt2")
    network = write_folder(tmp_path / "net", person_model(14, LSP_14))
    theirs = predict_sources(str(network), photos, cfg, QUIET).path
    rows, expected = (json.loads((each / "keypoints.json").read_bytes()) for each in (output, theirs))
    assert rows["categories"] == expected["categories"]
    assert rows["images"] == expected["images"]
    for ours, other in zip(rows["annotations"], expected["annotations"], strict=True):
        assert_allclose(ours["keypoints"], other["keypoints"], atol=0.05)
    before = (output / "summary.json").read_bytes()
    predict_sources(str(folder / "pose.pt2"), photos, cfg, QUIET)
    assert (output / "summary.json").read_bytes() == before
    with pytest.raises(InputError, match="another"):  # the same photos by another model
        predict_sources(
            str(network),
            photos,
            load(PredictSettings, None, [f"output={output}", "people.name=whole"]),
            QUIET,
        )


def test_predictions_are_called_by_the_folder_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pose.pt2").touch()
    assert name_of(str(tmp_path / "mine")) == "mine-pose-pt2"
    assert name_of(str(tmp_path / "mine" / "pose-int8.onnx")) == "mine-pose-int8-onnx"
    assert name_of("runs/mine/model") == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "average"}, "network: .*pose.pt2 holds the choice of its export"),
        ({"decode": "dark"}, "decode: .*pose.pt2 holds the choice"),
        ({"flip_test": True}, "flip_test: .*pose.pt2 holds the choice"),
        ({"precision": "bf16"}, "precision: .*pose.pt2 holds the choice"),
    ],
)
def test_what_the_export_decided_is_not_decided_again(folder: Path, settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        semipose.load(folder / "pose.pt2", people=WholePhotos(), **settings)


@pytest.mark.parametrize("file", ["pose.pt2", pytest.param("pose.onnx", marks=needs_onnx)])
def test_a_file_that_is_absent_or_no_export_is_refused_in_a_line(file: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{file}: does not exist"):
        semipose.load(tmp_path / file)
    (tmp_path / file).write_bytes(b"nothing of the kind")
    with pytest.raises(
        InputError, match=rf"{file}: it cannot be loaded \(.*export the model again"
    ) as caught:
        semipose.load(tmp_path / file)
    assert "\n" not in str(caught.value)


def test_a_graph_of_others_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "pose.pt2")
    with pytest.raises(InputError, match="it does not say how to use it"):
        semipose.load(tmp_path / "pose.pt2")


@needs_onnx
def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pose.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime is not installed: pip install 'semipose\[onnx\]'"):
        semipose.load(tmp_path / "pose.onnx")


def test_a_graphics_card_that_is_asked_for_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """`device=auto` may fall back on the CPU, any other word may not."""
    (tmp_path / "pose.pt2").touch()
    monkeypatch.setattr("semipose.predict.model.choose_device", lambda _: torch.device("cuda"))
    with pytest.raises(InputError, match=r"device: .*pose.pt2 was traced on a CPU"):
        semipose.load(tmp_path / "pose.pt2", device="cuda")
    with pytest.raises(InputError, match="it cannot be loaded"):
        semipose.load(tmp_path / "pose.pt2")
