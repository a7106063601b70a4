"""The tree of settings of a training run: what a recipe under configs/run holds."""

from typing import Annotated, Literal

from pydantic import Field

from configs.settings import settings
from models.codecs.heatmap import HeatmapSettings
from models.net import NetSettings
from pipelines.loader import Cache, LoaderSettings
from pipelines.views import ViewSettings
from training.methods import MethodSettings
from training.methods.supervised import SupervisedSettings
from training.reporting.collapse import CollapseSettings
from training.schedule import Milestones, Schedule
from training.scoring.settings import EvaluationSettings, Metric

Count = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1, le=16_384)]
Seed = Annotated[int, Field(ge=-(2**48), le=2**48)]  # generators of 64 bits are seeded by multiples of it
Share = Annotated[float, Field(gt=0, lt=1)]


@settings
class DataSettings:
    """Which people are labelled, unlabelled and scored."""

    train: str
    """Shards of the training people: a folder, s3://, gs://, http(s)://, or pipe:COMMAND that prints {file},
    such as `pipe:ssh HOST cat /data/train/{file}`."""
    val: str
    """Shards of the people to score on."""
    labelled: Count | Literal["all"] = "all"
    """How many people of `train` are labelled: the first N of its order (published), or all. People without a
    marked keypoint are passed over."""
    subset_seed: Annotated[int, Field(ge=0)] | None = None
    """Draw the labelled people at random with this seed instead of taking the first N."""
    unlabelled: str | None = None
    """Shards of the unlabelled people; without it they come from `train`."""
    unlabelled_includes_labelled: bool = True
    """Whether the labelled people of `train` are also unlabelled ones (published: yes)."""
    cache: Cache = "none"
    """Keep the decoded crops of the training people: none, host (the machine's memory) or device (the GPU's).
    They are decoded once, before the first step; crops that do not fit are refused with the size needed."""


@settings
class OptimSettings:
    """Adam and its learning rate."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Base learning rate."""
    schedule: Schedule = Milestones()
    """How the rate changes over the run."""


@settings
class RunSettings:
    """One training run."""

    output: str
    """The run's folder: card, metrics, checkpoints, pictures, scores."""
    protocol: str = "own"
    """Name of the protocol that the run keeps (a file under configs/protocols): for its card and tables."""
    seed: Seed = 0
    """Seed of the network's first weights, of the views, and of every draw of the method."""
    data: DataSettings
    """Which people are labelled, unlabelled and scored."""
    views: ViewSettings = ViewSettings()
    """The views' size, and how they are drawn."""
    loader: LoaderSettings = LoaderSettings()
    """How shards become batches."""
    net: NetSettings = NetSettings()
    """The network."""
    heatmap: HeatmapSettings = HeatmapSettings()
    """Keypoints to heatmaps and back."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the scored people are predicted."""
    method: MethodSettings = SupervisedSettings()
    """The training method."""
    optim: OptimSettings = OptimSettings()
    """Adam and its learning rate."""
    steps: Count = 140_460
    """Optimiser steps of the run (published 1K runs: 30 epochs of 4,682)."""
    labelled_batch: BatchSize = 32
    """Labelled people in a step, on each process."""
    unlabelled_batch: BatchSize = 32
    """Unlabelled people in a step, on each process."""
    report_every: Count = 50
    """Steps between two lines of the report; each costs one transfer from the device."""
    collapse: CollapseSettings = CollapseSettings()
    """When the fall of a teacher is called a collapse."""
    evaluate_every: Count | Share = 0.1
    """Steps between two scorings of the people in `data.val`, or (below 1) a share of the run: 0.1 scores ten
    times. The last step is always scored."""
    checkpoint_every: Count | Share = 0.05
    """Steps between two checkpoints, or (below 1) a share of the run. The last step always leaves one."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints stay. The one of the best scoring, of those saved at a step that was
    scored, stays beside them. With 1 there is none to fall back on where a disk damages the newest."""
    metric: Metric = "AP"
    """The score that decides which scoring was the best one; one that `data.val` cannot give is refused."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward passes."""
    channels_last: bool = True
    """Keep images and weights in channels-last memory order."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    deterministic: bool = False
    """Only kernels that give the same bits every time, so that a resumed run repeats an uninterrupted one on
    a GPU too (a CPU does so by itself); slower; a part that has no such kernel stops the run and is named."""
