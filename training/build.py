"""What training and scoring a run both need: its people, its method, its kernels."""

import os
from pathlib import Path

import torch

from configs.load import InputError
from models.codecs.heatmap import HeatmapCodec
from models.net import NetSettings, PoseNet, build_net
from pipelines.loader import ProcessInfo
from pipelines.source import Split, labelled_split, open_split, unlabelled_split
from sharding.annotations.skeleton import Skeleton
from training.methods.method import Ingredients, Method
from training.methods.random_state import RandomState
from training.settings import RunSettings

RECIPE_NAME = "recipe.yaml"
MOST_GRAPHS = 64


def choose_kernels(*, deterministic: bool) -> None:
    """Let a GPU take its fastest kernels, or only such as repeat to the bit; call before it is first used."""
    # cuBLAS reads this when its first handle is made; torch refuses a matrix product without it.
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Shapes stay the same all run long, so it pays to try cuDNN's algorithms once; which wins is chance.
    torch.backends.cudnn.benchmark = not deterministic


def open_splits(cfg: RunSettings, index_dir: Path) -> tuple[Split, Split | None, Split]:
    """The labelled, unlabelled (where the method uses them) and scored people. Raises InputError.

    The index files of the first two go to `index_dir`.
    """
    data = cfg.data
    train_people, val = open_split(data.train), open_split(data.val)
    if train_people.skeleton != val.skeleton:
        raise InputError(f"{data.train} and {data.val} have different keypoints: shard both by one format")
    labelled = labelled_split(train_people, data.labelled, subset_seed=data.subset_seed, index_dir=index_dir)
    unlabelled = None
    if cfg.method.uses_unlabelled and data.unlabelled is not None:
        unlabelled = open_split(data.unlabelled)
    elif cfg.method.uses_unlabelled:
        without = None if data.unlabelled_includes_labelled else labelled
        unlabelled = unlabelled_split(train_people, without=without, index_dir=index_dir)
    return labelled, unlabelled, val


def build_method(cfg: RunSettings, skeleton: Skeleton, process: ProcessInfo, *, fresh: bool = True) -> Method:
    """The method with its networks, on the device; without `fresh` a checkpoint will give the weights, so no
    pretrained ones are fetched."""

    def make_network(net: NetSettings | None) -> PoseNet:
        network = build_net(net or cfg.net, skeleton.num_keypoints, loads_weights=fresh).to(process.device)
        return network.to(memory_format=torch.channels_last) if cfg.channels_last else network

    random_state = RandomState(cfg.seed, process.rank, process.device)
    method = cfg.method.build(Ingredients(make_network, HeatmapCodec(cfg.heatmap, skeleton), random_state))
    if cfg.compile:
        compile_networks(method)
    return method


def build_optimizer(module: torch.nn.Module, cfg: RunSettings) -> torch.optim.Optimizer:
    """Adam over what is trained, in one kernel for all parameters."""
    parameters = [each for each in module.parameters() if each.requires_grad]
    return torch.optim.Adam(parameters, lr=cfg.optim.lr, fused=True)


def compile_networks(method: Method) -> None:
    """Compile every network of a method, copies of teachers too; names and values of its state stay.

    Each size of batch, place to mix at, mode and shape of network is a graph of its own, made when it is
    first met. All networks share torch's limit on their number, beyond which it would run uncompiled: methods
    of several networks that mix at several places pass the usual 8.
    """
    torch._dynamo.config.recompile_limit = max(MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    for module in method.modules():
        if isinstance(module, PoseNet):
            module.compile(dynamic=False)
