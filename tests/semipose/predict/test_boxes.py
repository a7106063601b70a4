"""Who finds people: detectors that are stubs here, and sentences where a library is absent."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from semipose.configs.errors import InputError
from semipose.predict.boxes import RFDETR, RTDETR, AutoBoxes, Detector, OnnxDetector
from semipose.predict.onnx_detector import find_with

CPU = torch.device("cpu")
PHOTOS = [np.zeros((100, 200, 3), np.uint8), np.full((50, 80, 3), 255, np.uint8)]


@pytest.mark.parametrize(
    ("settings", "library", "extra"),
    [
        (RTDETR(), "transformers", "rtdetr"),
        (RFDETR(), "rfdetr", "rfdetr"),
        (OnnxDetector(file=Path("d.onnx")), "onnxruntime", "onnx"),
    ],
)
def test_a_library_that_is_absent_is_named_with_its_cure(settings, library, extra, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{library} is not installed: pip install 'semipose\[{extra}\]'"):
        settings.load(CPU)


def test_without_weights_the_sentence_says_what_else_gives_boxes(monkeypatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(InputError, match=r"people\.weights: DEFAULT .*no route.*people\.name=whole"):
        AutoBoxes().detector_of("person", ()).load(CPU)


@pytest.mark.parametrize(
    ("thing", "label"), [("person", 1), ("Person ", 1), ("dog", 18), ("Dining Table", 67)]
)
def test_the_default_detector_searches_for_the_models_category(thing: str, label: int) -> None:
    """The labels are COCO's category ids."""
    assert AutoBoxes().detector_of(thing, ()) == Detector(category=label)


@pytest.mark.parametrize("thing", ["dancer", "person", ""])
def test_people_by_another_name_are_known_by_their_keypoints(thing: str) -> None:
    keypoints = ("head", "Right Shoulder", "LWrist")
    assert AutoBoxes().detector_of(thing, keypoints) == Detector(category=1)
    assert AutoBoxes().detector_of("dog", keypoints) == Detector(category=18)


@pytest.mark.parametrize("thing", ["dancer", "mouse", ""])
def test_a_category_that_the_detector_does_not_know_is_not_guessed(thing: str) -> None:
    """COCO's mouse belongs to a computer; that of a set of keypoints is the animal."""
    with pytest.raises(InputError) as refused:
        AutoBoxes().detector_of(thing, ("nose", "left_wrist"))
    for cure in ("people.name=whole", "people.name=boxes", "people.category="):
        assert cure in str(refused.value)


def test_the_detector_of_torchvision_finds_what_it_finds_for_shards(monkeypatch) -> None:
    class Stub(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert [image.shape[-2:] for image in images] == [(100, 200), (50, 80)]
            assert float(images[1].min()) == 1.0
            corners = torch.tensor([[10.0, 20, 30, 60], [0, 0, 5, 5], [1, 1, 9, 9]])
            found = {
                "boxes": corners,
                "labels": torch.tensor([1, 2, 1]),
                "scores": torch.tensor([0.9, 0.9, 0.2]),
            }
            return [found, {name: values[:0] for name, values in found.items()}]

    monkeypatch.setattr("semipose.sharding.annotations.detector._load_model", lambda *_: Stub())
    first, second = Detector().load(CPU).find(PHOTOS)
    assert first.xywh.tolist() == [[10, 20, 20, 40]]
    assert first.scores.tolist() == pytest.approx([0.9])
    assert second.xywh.shape == (0, 4)


def test_rf_detr_gives_its_boxes(monkeypatch) -> None:
    class Nano:
        def __init__(self, device: str) -> None:
            pass

        def predict(self, photo: np.ndarray, threshold: float) -> Any:
            corners = np.array([[1.0, 2, 11, 22], [0, 0, 4, 4]])
            return SimpleNamespace(xyxy=corners, confidence=np.array([0.8, 0.7]), class_id=np.array([1, 3]))

    stub = ModuleType("rfdetr")
    stub.RFDETRNano = Nano
    monkeypatch.setitem(sys.modules, "rfdetr", stub)
    (boxes,) = RFDETR().load(CPU).find(PHOTOS[:1])
    assert boxes.xywh.tolist() == [[1, 2, 10, 20]]


class Session:
    """An ONNX detector that finds one person in the middle of every photo."""

    def __init__(self, *outputs: str) -> None:
        self.outputs = outputs

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", shape=[1, 3, 64, "width"])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.outputs]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert inputs["input"].shape == (1, 3, 64, 560)
        assert inputs["input"].dtype == np.float32
        shares = np.array([[[0.5, 0.5, 0.25, 0.5], [0.1, 0.1, 0.1, 0.1]]], np.float32)
        return [shares, np.array([[[-9.0, 2.0], [-9.0, -2.0]]], np.float32)]


def test_an_onnx_detector_gives_shares_of_the_photo() -> None:
    find = find_with(Session("dets", "labels"), OnnxDetector(file=Path("d.onnx")))
    ((box, score),) = find(PHOTOS[:1])[0]
    assert box == pytest.approx([75, 25, 50, 50])
    assert score == pytest.approx(1 / (1 + np.exp(-2)))


def test_an_onnx_file_with_other_outputs_is_refused() -> None:
    with pytest.raises(InputError, match=r"d\.onnx has the outputs output0, not `dets` and `labels`"):
        find_with(Session("output0"), OnnxDetector(file=Path("d.onnx")))
