"""Views that are drawn without shards are those that DALI draws from shards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from semipose.configs.errors import InputError
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.geometry import apply, linear_scale
from semipose.pipelines.loader import eval_loader
from semipose.pipelines.photo_loader import eval_photo_loader
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import open_split
from semipose.pipelines.views import ViewSettings
from semipose.predict import views
from semipose.predict.predictor import Predictor
from semipose.predict.sources import find_work
from semipose.predict.views import ViewMaker, cut_person, cut_photo
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.skeleton import LSP_14
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.crop import PersonCrop, WholePhoto, cut, encode_jpeg
from semipose.training.predict import predict
from tests.semipose.models import person_model

SIZE_HW = (96, 72)


def drawn(folder: Path, **settings: object) -> Path:
    """Shards of a few large drawn pictures, of which crops are scaled down."""
    source = DrawnFormat(folder=folder / "coco", people=9, seed=3, size_wh=(700, 500), crowded=0.5)
    build(BuildSettings(source=source, output=folder / "shards", **settings), console=Console(quiet=True))
    return folder / "shards"


def assert_equal_views(ours: EvalBatch, theirs: EvalBatch, grey_levels: float) -> None:
    """Equal to a hundredth of a pixel in the photo and to so many of 255 levels."""
    corners = torch.tensor([[[0.0, 0.0], [300.0, 200.0]]]).expand(len(ours.image), -1, -1)
    here, there = apply(ours.image_from_view, corners), apply(theirs.image_from_view, corners)
    assert (here - there).abs().max() < 0.01
    assert ours.image.shape == theirs.image.shape
    assert (ours.image - theirs.image).abs().max() < grey_levels / 255 / 0.22


@pytest.mark.parametrize("stored_for_wh", [(72, 96), (144, 192), (60, 64)])
def test_people_are_seen_as_evaluation_sees_them(
    stored_for_wh: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the shards were built for other views than those of the run."""
    crop = PersonCrop(input_size_wh=stored_for_wh)
    shards = drawn(tmp_path, crop=crop)
    (theirs,) = eval_loader(open_split(shards), ViewSettings(size_hw=SIZE_HW), batch_size=20)
    work = find_work([str(tmp_path / "coco" / "annotations.json")], images=str(tmp_path / "coco" / "images"))
    # A shard keeps its crops as JPEG, which is the one difference.
    monkeypatch.setattr(views, "cut", lambda *a: simplejpeg.decode_jpeg(encode_jpeg(cut(*a))))
    assert any(item.boxes is not None and len(item.boxes.xywh) > 1 for item in work.photos)
    cuts = [cut_person(item.read(), box, crop) for item in work.photos for box in item.boxes.xywh]
    assert any(cut.pixels.shape[0] != round(cut.image_from_stored[1, 1]) for cut in cuts)
    assert_equal_views(ViewMaker(SIZE_HW, "mean").people(cuts), theirs, grey_levels=1)


class EdgeFinder(nn.Module):
    """Grey views (N, 3, H, W) -> maps (N, 14, H/4, W/4) of where edges of 14 kinds are most frequent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.edges = nn.Conv2d(1, 14, 3, padding=1, bias=False)
        bell = torch.exp(-(torch.arange(-6.0, 7.0) ** 2) / 8)
        self.blur = (bell[:, None] * bell / bell.sum() ** 2).expand(14, 1, -1, -1)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        edges = self.edges(views.mean(1, keepdim=True)).abs()
        return F.conv2d(F.avg_pool2d(edges, 4), self.blur, padding=6, groups=14)


def test_people_of_large_photos_are_predicted_as_their_shards_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photos are ten times as wide as the views, and the shards are for views of twice the size."""
    crop, size_hw = PersonCrop(input_size_wh=(96, 128)), (64, 48)
    shards = drawn(tmp_path, crop=crop)
    (batch,) = eval_loader(open_split(shards), ViewSettings(size_hw=size_hw), batch_size=20)
    random = person_model(14, LSP_14)
    codec = HeatmapCodec(HeatmapSettings(sigma=2.0, decode="dark"), LSP_14)
    model = replace(random, network=EdgeFinder().eval(), codec=codec)
    model = replace(model, config=replace(random.config, crop=crop, size_hw=size_hw))
    evaluated = predict({"edges": model.network}, [batch], codec=codec)["edges"].points_xy

    def moved(annotations: Path) -> np.ndarray:
        """How far keypoints are from those of the shards, in pixels of the view."""
        work = find_work([str(annotations)], images=str(tmp_path / "coco" / "images"))
        pose = Predictor(model)
        people = [pose(item.read(), boxes=item.boxes.xywh) for item in work.photos]
        distance = np.linalg.norm(np.concatenate([each.xy for each in people]) - evaluated, axis=-1)
        return distance / linear_scale(batch.image_from_view)[:, None].numpy()

    for annotations in (tmp_path / "coco" / "annotations.json", shards / "ground_truth.json"):
        assert np.quantile(moved(annotations), 0.95) < 0.5
        with monkeypatch.context() as patch:
            patch.setattr(views, "cut", lambda *a: simplejpeg.decode_jpeg(encode_jpeg(cut(*a))))
            assert moved(annotations).max() < 0.02


def test_whole_photos_are_seen_as_evaluation_sees_them(tmp_path: Path) -> None:
    shards = drawn(tmp_path, kind="image", crop=WholePhoto())
    (theirs,) = eval_photo_loader(open_split(shards, "image"), PhotoViewSettings(size=448), batch_size=20)
    photos = [item.read() for item in find_work([str(tmp_path / "coco" / "images")]).photos]
    ours = ViewMaker((0, 0), "black").photos([cut_photo(photo, 448) for photo in photos], 448)
    assert_equal_views(ours, theirs, grey_levels=1)
    assert ours.view_hw is not None
    assert ours.view_hw.tolist() == theirs.view_hw.tolist()
    assert [record["source_size"] for record in ours.records] == [(700, 500)] * len(photos)


@pytest.mark.parametrize("size_wh", [(640, 480), (333, 500), (1, 1), (4000, 30), (2999, 4001)])
def test_the_middle_of_a_photo_stays_where_it_is(size_wh: tuple[int, int]) -> None:
    """A photo is scaled about its edges, whatever the rounding of the scaled sides."""
    photo = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    cut = cut_photo(photo, 64)
    stored_wh = np.array([cut.pixels.shape[1], cut.pixels.shape[0]])
    middle = cut.image_from_stored @ [*((stored_wh - 1) / 2), 1]
    assert middle == pytest.approx((np.array(size_wh) - 1) / 2)


@pytest.mark.parametrize("box", [(200, 10, 20, 20), (10, 10, 0, 0), (-50, 0, 20, 20)])
def test_a_box_without_pixels_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="empty or outside the photo"):
        cut_person(np.zeros((80, 100, 3), np.uint8), box, PersonCrop())
