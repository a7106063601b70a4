"""Numbers and pictures reach the services that the user chose, and one that fails costs only itself."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semipose.configs.load import InputError
from semipose.models.files import TRACKERS_NAME
from semipose.training.methods.method import Terms
from semipose.training.reporting import trackers
from semipose.training.reporting.report import Report
from semipose.training.reporting.trackers import flat, require_trackers
from semipose.training.settings import TrackerName


class Fake(GeneralTracker):
    """Stands for W&B: remembers what it was sent."""

    name = "wandb"
    requires_logging_directory = False
    begun: ClassVar[list["Fake"]] = []
    fails_in: ClassVar[str] = ""

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.project, self.init_kwargs = project, options
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.images: list[tuple[int, str, tuple[int, ...]]] = []
        self.settings: dict[str, Any] | None = None
        self.is_finished = False

    @property
    def tracker(self) -> "Fake":
        return self

    def answer(self, call: str) -> None:
        if call == self.fails_in:
            raise ConnectionError("no route to host")

    def start(self) -> None:
        self.answer("start")
        self.begun.append(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.answer("log")
        assert step is not None
        self.rows.append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.answer("log_images")
        assert step is not None
        self.images += [(step, name, image.shape) for name, images in values.items() for image in images]

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(Fake, "begun", [])
    monkeypatch.setattr(Fake, "fails_in", "")
    return Fake


SETTINGS = {"method": {"name": "single", "paths": [["cutout"]]}, "steps": 4}


def train(folder: Path, names: tuple[TrackerName, ...], *, steps: range = range(1, 5)) -> None:
    """A run of four steps with two reports, a score and a picture."""
    folder.mkdir(exist_ok=True)
    accelerator = Accelerator(cpu=True)
    report = Report(folder, accelerator, total_steps=4, every=2, trackers=names, settings=SETTINGS)
    report.last_step = steps.start - 1
    with report:
        for step in steps:
            report.step(step, Terms({"loss": float(step)}), 0.0, samples=1)
        report.scores(4, {"network": {"AP": 0.5}})
        picture = folder / "sheet.png"
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(picture)
        report.picture(4, "views", picture)
    accelerator.end_training()


def test_a_service_gets_numbers_pictures_and_settings(fake: type[Fake], tmp_path: Path) -> None:
    train(tmp_path / "mine", ("wandb",))
    (service,) = fake.begun
    assert service.project == "semipose"
    assert service.init_kwargs["name"] == "mine"
    assert service.settings == {"method.name": "single", "method.paths": '[["cutout"]]', "steps": 4}
    assert [(step, row["loss"]) for step, row in service.rows if "loss" in row] == [(2, 1.5), (4, 3.5)]
    assert (4, {"network/AP": 0.5}) in service.rows
    assert service.images == [(4, "views", (6, 8, 3))]
    assert service.is_finished


def test_a_resumed_run_continues_at_the_service_and_a_new_one_does_not(
    fake: type[Fake], tmp_path: Path
) -> None:
    train(tmp_path, ("wandb",), steps=range(1, 3))
    train(tmp_path, ("wandb",), steps=range(3, 5))
    train(tmp_path, ("wandb",))
    first, resumed, new = (service.init_kwargs["id"] for service in fake.begun)
    assert first == resumed
    assert new != first
    assert json.loads((tmp_path / TRACKERS_NAME).read_text()) == {"wandb": new}


@pytest.mark.parametrize("call", ["start", "log", "log_images"])
def test_a_service_that_fails_is_named_once_and_the_run_continues(
    call: str,
    fake: type[Fake],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fake, "fails_in", call)
    train(tmp_path, ("wandb",))
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("note: wandb gets nothing more of this run (ConnectionError: no route to host)") == 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 4]


def test_numbers_that_are_not_finite_stay_out_of_a_service(fake: type[Fake], tmp_path: Path) -> None:
    train(tmp_path, ("wandb",))
    service = trackers.Service("wandb", tmp_path, {}, is_new=True, say=print)
    service.start()
    service.log({"loss": float("nan"), "lr": 0.1}, step=1)
    assert fake.begun[-1].rows == [(1, {"lr": 0.1})]


def test_tensorboard_has_the_pictures(tmp_path: Path) -> None:
    train(tmp_path, ("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("views")
    assert (image.step, image.height, image.width) == (4, 6, 8)


def test_without_trackers_there_is_only_the_file(tmp_path: Path) -> None:
    train(tmp_path, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "sheet.png"]


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    require_trackers(("tensorboard",))
    with pytest.raises(InputError, match=r"trackers: mlflow needs .* `pip install mlflow`"):
        require_trackers(("tensorboard", "mlflow"))


def test_settings_are_named_by_their_path() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": (1, 2)}, "e": None}) == {"a.b.c": 1, "a.d": "[1, 2]", "e": None}


def test_weights_and_biases_takes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "mine", ("wandb",))
    (run,) = (tmp_path / "mine" / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    assert list((run / "files" / "media" / "images").glob("views_4_*.png"))


def test_mlflow_takes_a_run_and_a_resumed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for steps in (range(1, 3), range(3, 5)):
        train(tmp_path / "mine", ("mlflow",), steps=steps)
    (experiment,) = mlflow.search_experiments(filter_string="name = 'semipose'")
    (run,) = mlflow.search_runs([experiment.experiment_id], output_format="list")
    assert run.info.run_name == "mine"
    assert run.data.params["method.name"] == "single"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(2, 1.5), (4, 3.5)]
    assert [item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id, "pictures")]
