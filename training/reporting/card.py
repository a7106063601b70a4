"""The card of a run: what is trained on which people, with which versions, on which machine."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from semipose.configs.versions import versions
from semipose.models.net import FeatureNet
from semipose.models.start import Start
from semipose.pipelines.loader import ProcessInfo
from semipose.pipelines.source import Split
from semipose.training.evaluate import how
from semipose.training.methods.method import Method
from semipose.training.settings import LabelSourceSettings, RunSettings

PACKAGES = (
    "semipose",
    "torch",
    "torchvision",
    "timm",
    "nvidia-dali-cuda130",
    "accelerate",
    "pycocotools",
    "numpy",
    "numba",
)


def card(
    cfg: RunSettings,
    labelled: Split,
    unlabelled: Split | None,
    val: Split,
    method: Method,
    process: ProcessInfo,
    *,
    sources: Sequence[Split] = (),
    probe: Split | None = None,
    cached_bytes: int = 0,
) -> dict[str, Any]:
    """The card as plain values: protocol, people, how they are scored, networks, versions, hardware.

    sources: those of `data.sources`. probe: unlabelled photos whose annotations only measure the teacher.
    cached_bytes: the size of the decoded crops that this process keeps.
    """
    network = next(iter(method.networks().values()))
    height, width = (cfg.photo_views if cfg.kind == "image" else cfg.views).size_hw
    return {
        "method": cfg.method.name,
        "seed": cfg.seed,
        "protocol": cfg.protocol,
        "published": cfg.published.get(cfg.protocol),
        "networks": cfg.method.num_networks,
        "ensembles": {name: list(members) for name, members in method.ensembles().items()},
        "start_from": [asdict(start) for start in starts(method)],
        "labelled": {"choice": choice(cfg), **people(labelled)},
        "sources": [source(*each) for each in zip(cfg.data.sources, sources, strict=True)],
        "unlabelled": people(unlabelled) if unlabelled else None,
        "probe": people(probe) if probe else None,
        "val": {**people(val), "content_sha256": val.content_sha256},
        "scoring": how(cfg, val),
        "cache": {"home": cfg.data.cache, "bytes": cached_bytes},
        "steps": cfg.steps,
        "learning_rate": f"{cfg.optim.lr:g}, {cfg.optim.schedule.words}",
        "processes": process.world_size,
        "labelled_epochs": cfg.steps * cfg.labelled_batch * process.world_size / labelled.num_samples,
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained_parameters": trained_parameters(method),
        "heatmap_hw": [height // network.stride, width // network.stride],
        "versions": versions(PACKAGES),
        "hardware": hardware(process.device),
    }


def starts(method: Method) -> list[Start]:
    """What the networks of a method took from trained ones, each only once."""
    networks = (module for module in method.modules() if isinstance(module, FeatureNet))
    taken: list[Start] = []
    for network in networks:
        if network.start is not None and network.start not in taken:
            taken.append(network.start)
    return taken


def trained_parameters(method: Method) -> int:
    """The number of parameters that the optimiser updates, in all networks and in heads used for training."""
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


def describe(written: dict[str, Any]) -> str:
    """A card in one line for the start of a run: protocol, people and ids, scoring, networks, steps."""
    unlabelled, probe, scoring = written["unlabelled"], written["probe"], written["scoring"]
    flip_test = "the flip test" if scoring["flip_test"] else "no flip test"
    where = "as whole photos" if scoring["boxes"] == "none" else f"in {scoring['boxes']} boxes"
    networks, cache = written["networks"], written["cache"]
    kept = [f"{cache['bytes'] / 2**30:.3g} GiB of crops kept on the {cache['home']}"] * bool(cache["bytes"])
    return "; ".join(
        [
            f"protocol {written['protocol']}: {written['labelled']['choice']}",
            f"{counted(written['labelled'])} labelled",
            *[describe_source(source) for source in written["sources"]],
            f"{counted(unlabelled)} unlabelled" if unlabelled else "none unlabelled",
            *([f"the teacher is probed on {counted(probe)} of them"] if probe else []),
            f"{counted(written['val'])} scored {where} with {flip_test}",
            *kept,
            f"{networks} {'network' if networks == 1 else 'networks'}",
            f"{written['steps']:,} steps",
            f"learning rate {written['learning_rate']}",
            *[f"published: {written['published']}"] * bool(written["published"]),
        ]
    )


def counted(split: dict[str, Any]) -> str:
    """`1,000 (ids 0123456789ab)`."""
    return f"{split['people']:,} (ids {split['ids_sha256'][:12]})"


def source(cfg: LabelSourceSettings, split: Split) -> dict[str, Any]:
    """A source of more labelled people: how it counts, its people, and the model that labelled them."""
    teacher = split.manifest.teacher
    return {
        "batch": cfg.batch,
        "weight": cfg.weight,
        "teacher": asdict(teacher) if teacher else None,
        **people(split),
    }


def describe_source(written: dict[str, Any]) -> str:
    """A source in words."""
    teacher = written["teacher"]
    by = f" by {teacher['model']} (licence: {teacher['licence'] or 'unknown'})" if teacher else ""
    return f"{counted(written)} labelled{by}, {written['batch']} per step with weight {written['weight']:g}"


def choice(cfg: RunSettings) -> str:
    """How the labelled people were chosen, in words."""
    data, samples = cfg.data, "photos" if cfg.kind == "image" else "people"
    if data.labelled_share is not None:
        return f"{data.labelled_share:.3g} of the annotated photos of {data.train} (fold {data.fold})"
    if data.labelled == "all":
        return f"all {samples} of {data.train}"
    which = "the first" if data.subset_seed is None else f"a random draw (seed {data.subset_seed}) of"
    return f"{which} {data.labelled} {samples} of {data.train}"


def people(split: Split) -> dict[str, Any]:
    """The address of a split, its people, what its build left out or noted, and hashes of ids and samples."""
    return {
        "folder": split.root,
        "people": split.num_samples,
        "dropped": split.manifest.dropped,
        "problems": split.manifest.problems,
        "ids_sha256": split.ids_sha256,
        "samples_sha256": split.selection_sha256,
    }


def hardware(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
