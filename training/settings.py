"""The settings of a training run, which a protocol and a method under configs/ set together."""

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.load import load
from semipose.configs.settings import settings
from semipose.models.codecs.ae import AESettings
from semipose.models.codecs.cid import CIDSettings
from semipose.models.codecs.dekr import DEKRSettings
from semipose.models.codecs.heatmap import HeatmapSettings
from semipose.models.net import InstanceHead, NetSettings
from semipose.pipelines.loader_settings import Cache, LoaderSettings
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.views import ViewSettings
from semipose.training.methods import METHODS, MethodSettings
from semipose.training.methods.supervised import SupervisedSettings
from semipose.training.reporting.collapse import CollapseSettings
from semipose.training.schedule import Milestones, Schedule
from semipose.training.scoring.settings import EvaluationSettings, Metric

Count = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1, le=16_384)]
Seed = Annotated[int, Field(ge=-(2**48), le=2**48)]  # 64-bit generators are seeded with multiples of it
Share = Annotated[float, Field(gt=0, lt=1)]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@settings
class LabelSourceSettings:
    """More labelled people: labelled by a model (`semipose teach`), or from another data set."""

    shards: str
    """Their shards. Keypoints are recognised by their names; those that are not in the shards count as not
    labelled."""
    batch: Count = 16
    """People of this source per step and process."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of their loss beside that of the people of `data.train`. Each keypoint that a model labelled is
    also weighted by the model's confidence."""
    keypoints: tuple[str, ...] | None = None
    """Which keypoints of `data.train` are learned from them; null: all that they have."""
    hand_over: bool = False
    """Whether the weight falls to 0 as the method's unlabelled losses rise, so that the method's own teacher
    takes over. This needs a `burn_in`, and a model that is not much better than the network."""


@settings
class DataSettings:
    """Which people are labelled, unlabelled and scored."""

    train: str
    """Shards of the training people: a folder, an s3://, gs:// or http(s):// address, or pipe:COMMAND, where
    the command prints {file}, such as `pipe:ssh HOST cat /data/train/{file}`."""
    val: str
    """Shards of the people to score."""
    labelled: Count | Literal["all"] = "all"
    """How many people of `train` are labelled: the first N in its order (published), or all. People without a
    labelled keypoint are skipped."""
    subset_seed: Annotated[int, Field(ge=0)] | None = None
    """Choose the labelled people at random with this seed; null: take the first N."""
    labelled_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Which share of the whole photos of `train` with annotated people is labelled, chosen by the hash of
    their names; null: `labelled` says how many."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which of the random choices of `labelled_share`; smaller shares are part of larger ones of a fold."""
    unlabelled: str | None = None
    """Shards of the unlabelled people; null: they come from `train`."""
    sources: tuple[LabelSourceSettings, ...] = ()
    """More labelled people, for instance labelled by a foundation model."""
    unlabelled_includes_labelled: bool = True
    """Whether the labelled people of `train` are also used as unlabelled ones (published: yes)."""
    cache: Cache = "none"
    """Whether to keep the decoded crops of the training people: none, host (in the machine's memory) or
    device (in the GPU's). They are decoded once, before the first step. If they do not fit, the run stops and
    says how much memory they need."""

    def __post_init__(self) -> None:
        for name, what in (("train", "trained on"), ("val", "scored")):
            if getattr(self, name) == "null":  # typed as if the setting could be left out
                raise ValueError(f"{name} is needed: give the shards of the samples that are {what}")
        if self.labelled_share is not None and (self.labelled != "all" or self.subset_seed is not None):
            other = "labelled" if self.labelled != "all" else "subset_seed"
            raise ValueError(
                f"labelled_share and {other} both say which samples are labelled: set {other} to "
                f"{'all' if other == 'labelled' else 'null'}, or labelled_share to null"
            )
        if self.labelled_share is None and self.fold:
            raise ValueError(
                "fold is one of the choices of labelled_share: give labelled_share, or set fold to 0"
            )


@settings
class OptimSettings:
    """Adam and its learning rate."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Base learning rate."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the gradient of all parameters; longer gradients are shortened to it. null: none
    is."""
    schedule: Schedule = Milestones()
    """How the rate changes over the run."""


@settings
class RunSettings:
    """One training run."""

    output: str = ""
    """The run's folder: card, metrics, checkpoints, pictures, scores. Without it, runs/PROTOCOL/METHOD
    by the names of the recipes."""
    protocol: str = "own"
    """Name of the protocol that the run follows (a file under configs/protocols), for its card and tables."""
    published: dict[str, str] = field(default_factory=dict)
    """Published scores of the method in percent, by protocol: for the card and tables."""
    seed: Seed = 0
    """Seed of the initial weights, of the views, and of all random numbers of the method."""
    data: DataSettings
    """Which people are labelled, unlabelled and scored."""
    views: ViewSettings = ViewSettings()
    """The size of the views, and how they are drawn."""
    photo_views: PhotoViewSettings = PhotoViewSettings()
    """The size of the views of whole photos, and how they are drawn (with a `codec`)."""
    loader: LoaderSettings = LoaderSettings()
    """How shards are read into batches."""
    net: NetSettings = NetSettings()
    """The network."""
    heatmap: HeatmapSettings = HeatmapSettings()
    """Keypoints to heatmaps and back."""
    codec: Annotated[AESettings | DEKRSettings | CIDSettings, Field(discriminator="name")] | None = None
    """What the maps of a network of whole photos mean: ae, dekr or cid, as `net.head`. null: samples are
    single people, and maps are heatmaps (`heatmap`)."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How people are predicted for scoring."""
    method: MethodSettings = SupervisedSettings()
    """The training method."""
    optim: OptimSettings = OptimSettings()
    """Adam and its learning rate."""
    steps: Count = 140_460
    """Optimiser steps of the run (published runs with 1K labels: 30 epochs of 4,682)."""
    labelled_batch: BatchSize = 32
    """Labelled people per step and process."""
    unlabelled_batch: BatchSize = 32
    """Unlabelled people per step and process."""
    report_every: Count = 50
    """Steps between two reports; each report costs one transfer from the device."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where numbers and pictures go beside metrics.jsonl; install the package of a service first."""
    collapse: CollapseSettings = CollapseSettings()
    """When the run warns that a teacher collapses."""
    evaluate_every: Count | Share = 0.1
    """Steps between two scorings of the people in `data.val`; a number below 1 is a share of the run, so 0.1
    scores ten times. The last step is always scored."""
    probe_photos: Annotated[int, Field(ge=0)] = 64
    """In how many unlabelled whole photos the people that the teacher finds are compared with the annotated
    ones, at each scoring, if the shards hold annotations of unlabelled photos. Nothing of it reaches the
    training, and it takes as long as scoring twice as many photos, so it is on; 0: none."""
    checkpoint_every: Count | Share = 0.05
    """Steps between two checkpoints; below 1, a share of the run. The last step is always saved."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints are kept. The best one, of those that were saved at a scored step,
    is kept as well. With 1 there is no other to fall back on if a disk damages the newest."""
    report: bool = True
    """Write the page of the run, report.html in its folder, at its end."""
    metric: Metric = "AP"
    """The score by which the best scoring is chosen; it must be one that `data.val` can give."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward passes."""
    channels_last: bool = True
    """Keep images and weights in channels-last memory order."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    deterministic: bool = False
    """Use only kernels that give the same bits every time, so that on a GPU, too, a resumed run repeats an
    uninterrupted one (on a CPU it always does). This is slower, and an operation without such a kernel stops
    the run with its name."""

    @property
    def kind(self) -> Literal["person", "image"]:
        """What a sample is: a person, or a whole photo."""
        return "image" if self.codec else "person"

    def __post_init__(self) -> None:
        head, codec = self.net.head, self.codec.name if self.codec else None
        if codec != (head.name if isinstance(head, InstanceHead) else None):
            raise ValueError(
                f"net.head '{head.name}' does not give the maps of "
                + (
                    f"codec '{codec}': set both to the same name"
                    if codec
                    else "single people: set codec.name"
                )
            )
        if self.data.sources and self.codec:
            raise ValueError(
                "data.sources are single people, and this run is on whole photos: leave them out"
            )
        if self.kind not in self.method.kinds:
            samples = {
                "person": "single people (codec: null)",
                "image": "whole photos (codec: ae, dekr or cid)",
            }
            methods = [method.name for method in METHODS if self.kind in method.kinds]
            raise ValueError(
                f"method '{self.method.name}' trains on {samples[self.method.kinds[0]]}, and this run on "
                f"{samples[self.kind]}: choose another method or another protocol (methods that train on "
                f"such samples: {', '.join(methods)})"
                + (
                    ". For the labels of a frozen teacher take detector_free with method.use=instances, "
                    f'method.burn_in=0.5 and "method.teacher={{name: previous_epoch, epoch_steps: '
                    f'{max(1, self.steps // 2)}}}"'
                    if self.method.name == "pseudo_label"
                    else ""
                )
            )


DECIDE_THE_SCORE = (
    *("protocol", "views", "photo_views", "net", "heatmap", "codec", "evaluation", "method", "optim"),
    *("steps", "labelled_batch", "unlabelled_batch"),
)
OF_THE_PEOPLE = (
    *("labelled", "subset_seed", "labelled_share", "fold"),
    *("unlabelled_includes_labelled", "sources"),
)


def load_run(recipes: Sequence[Path], overrides: Sequence[str] = ()) -> RunSettings:
    """The settings of a run by its recipes, mostly a protocol and a method, and `key.path=value` overrides.

    Where no folder is given, it is runs/PROTOCOL/METHOD; METHOD is the name of the second recipe. Published
    scores are those of the recipes as they are: overrides that change the method, the network or the
    schedule leave them out. Raises InputError.
    """
    cfg = load(RunSettings, recipes, overrides)
    if not cfg.output:
        names = [recipe.stem for recipe in recipes[1:] or recipes if recipe.stem != cfg.protocol]
        cfg = replace(cfg, output=f"runs/{cfg.protocol}/{[*names, cfg.method.name][0]}")
    if cfg.published:
        plain = load(RunSettings, recipes, ["data.train=-", "data.val=-"])
        is_published = all(getattr(cfg, name) == getattr(plain, name) for name in DECIDE_THE_SCORE)
        is_published &= all(getattr(cfg.data, name) == getattr(plain.data, name) for name in OF_THE_PEOPLE)
        is_published &= (cfg.data.unlabelled is None) == (plain.data.unlabelled is None)
        cfg = cfg if is_published else replace(cfg, published={})
    return cfg
