"""Settings of the benchmark of training steps, and the input of one measured process."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from configs.settings import settings
from pipelines.bench.settings import Count, PeopleSettings, threads_here

StepName = Literal["supervised", "semi"]
LoaderName = Literal["none", "host", "device", "classic"]
"""Our loader with that cache, or the classic one."""


@settings
class StepLimits:
    """How long the steps of one process are measured."""

    warmup: Count = 2
    """Steps before anything is timed; on a GPU at least 20, as kernels are compiled and chosen."""
    steps: Count = 5
    """Timed steps, at least."""
    seconds: Annotated[float, Field(ge=0)] = 15.0
    """More steps are timed until so much time has passed."""


@settings
class TrainingBenchSettings(PeopleSettings):
    """Which steps are measured, and how long."""

    output: Path = Path("runs/bench/training.json")
    """The result file; the plot goes beside it."""
    pipelines: Path = Path("runs/bench/pipelines.json")
    """The result of `python -m pipelines.bench`, for the table of targets."""
    supervised: Path = Path("configs/run/coco-1k/supervised.yaml")
    """Recipe of the supervised step."""
    semi: Path = Path("configs/run/coco-1k/adaptive_mixup.yaml")
    """Recipe of the semi-supervised step."""
    changes: tuple[str, ...] = ()
    """Changes to both recipes, such as `views.size_hw=[128,96]`."""
    batch_sizes: tuple[Count, ...] | None = None
    """Labelled, and as many unlabelled, people in a step; without it 8 on a CPU, 32 and 256 on a GPU."""
    threads: Count = Field(default_factory=threads_here)
    """Worker processes of the classic loader, and CPU threads of each of our streams; by default two, and
    beside a GPU as many as there are cores."""
    rounds: Count = 2
    """How often each step is measured, in a new process each time, in turns."""
    limits: StepLimits = Field(default_factory=StepLimits)
    """How long each time."""
    only: tuple[str, ...] = ()
    """Names of the rows to measure; without any, all."""
    longest_s: Annotated[float, Field(gt=0)] = 300.0
    """A process that takes longer is ended, and its row left out."""


@settings
class Measured:
    """One way to make a step: the input of a measured process."""

    name: str
    step: StepName
    loader: LoaderName = "none"
    way: Literal["ours", "classic"] = "ours"
    """Our method, or the same step as the published code makes it."""
    recipe: Path
    changes: tuple[str, ...] = ()
    batch_size: Count
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    crops: str
    """Shards of the people."""
    people: PeopleSettings = Field(default_factory=PeopleSettings)
    """Where the classic loader finds their photos."""
    threads: Count = 2
    limits: StepLimits = Field(default_factory=StepLimits)
    output: Path
    """Where the process leaves what it measured."""


@settings
class StepTimes:
    """What a measured process leaves: one number for each timed stretch of steps."""

    steps_per_s: tuple[float, ...]
    data_wait_share: tuple[float, ...]
    images: dict[str, int]
    """Labelled, weak, strong and mixed images in a step."""
    gpu_busy_share: float | None = None
    gpu_peak_gib: float | None = None
