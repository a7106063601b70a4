"""Start a network from a trained one: backbone and head, and the head's rows by the names of keypoints.

More labels, or other keypoints, then do not mean training from nothing: of 17, 14 and 20 keypoints those that
two sets share keep what was learnt.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semipose.configs.errors import InputError
from semipose.configs.words import some_of
from semipose.models.model_folder import (
    METADATA_KEY,
    ModelConfig,
    model_folder,
    parse_config,
    read_config,
    weights_name,
)
from semipose.models.net import FeatureNet
from semipose.models.weight_files import read_metadata, read_tensors
from semipose.sharding.annotations.flip_pairs import joined_name, plain_name
from semipose.sharding.annotations.skeleton import Skeleton

SETTING = "net.start_from"
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Start:
    """What a network took from a trained one, for `card.json` and for the line of a run."""

    source: str
    """What `net.start_from` says."""
    steps: int | None
    """Optimiser steps of the trained network; None where the file does not say."""
    backbone_tensors: int
    """Tensors of the backbone, which are taken completely."""
    head_tensors: int
    """Tensors of the head that were taken, completely or by rows; 0 where the heads differ."""
    keypoints: dict[str, str]
    """The keypoints whose rows were taken: own name, and the name in the trained network."""
    new_keypoints: tuple[str, ...]
    """The keypoints whose rows keep their random start."""
    note: str | None = None
    """Why the head, or its keypoints, were not taken."""
    licences: dict[str, str] = field(default_factory=dict)
    """The licences of what the trained network had started from."""

    def describe(self) -> str:
        """What was taken, in words."""
        steps = f" ({self.steps:,} steps)" if self.steps is not None else ""
        taken = f"started from {self.source}{steps}: {self.backbone_tensors} tensors of the backbone"
        if not self.head_tensors:
            return f"{taken}; the head is new: {self.note}"
        count = len(self.keypoints) + len(self.new_keypoints)
        taken += (
            f", {self.head_tensors} of the head, with the rows of {len(self.keypoints)} of {count} keypoints"
        )
        renamed = [f"{own} from {theirs}" for own, theirs in self.keypoints.items() if own != theirs]
        parts = [taken]
        parts += [f"by similar names: {some_of(renamed, NAMES_SHOWN)}"] if renamed else []
        parts += [f"new: {some_of(self.new_keypoints, NAMES_SHOWN)}"] if self.new_keypoints else []
        return "; ".join([*parts, *filter(None, [self.note])])


@dataclass(frozen=True)
class _Trained:
    """A trained network: its tensors, and its config where the file has one."""

    where: str
    tensors: Mapping[str, Tensor]
    config: ModelConfig | None


def start_network(network: FeatureNet, source: str, skeleton: Skeleton) -> Start:
    """Copy into `network`, which detects the keypoints of `skeleton`, what it shares with a trained one.

    source: a run, a model folder, a file of safetensors or `hf://owner/name`. The backbone must be the same;
    the head is taken if its layers are. Raises InputError if there is no such network, or if it has another
    backbone.
    """
    trained = _read(source)
    backbone = {name: value for name, value in trained.tensors.items() if name.startswith("backbone.")}
    own = network.state_dict()
    _refuse_other_backbone(network, own, backbone, trained)
    head, keypoints, note = _head_tensors(network, own, trained, skeleton)
    network.load_state_dict({**own, **backbone, **head, **_scaling(trained.config, own)})
    config = trained.config
    names = skeleton.names
    return Start(
        source=source,
        steps=config.provenance.step if config else None,
        backbone_tensors=len(backbone),
        head_tensors=len(head),
        keypoints=keypoints,
        new_keypoints=tuple(name for name in names if name not in keypoints),
        note=note,
        licences=dict(config.provenance.licences) if config else {},
    )


def _read(source: str) -> _Trained:
    """Read a trained network. Raises InputError, which names the setting."""
    path = Path(source)
    try:
        if path.is_file():
            metadata = read_metadata(path).get(METADATA_KEY)
            config = parse_config(metadata, str(path)) if metadata else None
        else:
            folder = model_folder(source)
            config = read_config(folder)
            path = folder / weights_name(config, config.network, product=config.network)
        tensors = read_tensors(path)
    except InputError as error:
        raise InputError(f"{SETTING}: {error}") from None
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{SETTING}: {path}: {some_of(broken, NAMES_SHOWN)} are not finite numbers: start from another "
            "run"
        )
    return _Trained(str(path), tensors, config)


def _refuse_other_backbone(
    network: FeatureNet, own: Mapping[str, Tensor], backbone: Mapping[str, Tensor], trained: _Trained
) -> None:
    """Raise InputError unless the trained backbone has exactly the tensors of the network's."""
    wanted = {name: value.shape for name, value in own.items() if name.startswith("backbone.")}
    different = sorted(
        name
        for name in wanted.keys() | backbone.keys()
        if name not in backbone or wanted.get(name) != backbone[name].shape
    )
    if not different:
        return
    theirs = f"'{trained.config.net.backbone.name}'" if trained.config else "another one"
    raise InputError(
        f"{SETTING}: {trained.where} has the backbone {theirs}, and this run "
        f"'{network.settings.backbone.name}': {len(different)} of {len(wanted)} tensors differ "
        f"({some_of(different, NAMES_SHOWN)}): set net.backbone as in that run. Weights of "
        "torchvision or timm are given by net.weights"
    )


def _head_tensors(
    network: FeatureNet, own: Mapping[str, Tensor], trained: _Trained, skeleton: Skeleton
) -> tuple[dict[str, Tensor], dict[str, str], str | None]:
    """Return the new values of the head's tensors, the keypoints taken, and why there are none or fewer."""
    theirs = {name: value for name, value in trained.tensors.items() if name.startswith("head.")}
    wanted = {name for name in own if name.startswith("head.")}
    if wanted != theirs.keys():
        kind = f"'{trained.config.net.head.name}'" if trained.config else "another one"
        return {}, {}, f"the trained one is {kind} and has other layers"
    keypoints = match_keypoints(skeleton, trained.config.skeleton) if trained.config else {}
    layers: Any = network.head
    rows = {f"head.{name}": value for name, value in layers.keypoint_rows().items()}
    targets = torch.tensor([skeleton.names.index(name) for name in keypoints], dtype=torch.long)
    head: dict[str, Tensor] = {}
    for name in sorted(wanted):
        old, new = theirs[name], own[name].clone()
        layer = next((layer for layer in rows if name.startswith(f"{layer}.")), None)
        if layer is None or not new.ndim:
            if old.shape != new.shape:
                return {}, {}, f"its {name} is {_shape(old)} there and {_shape(new)} here"
            head[name] = old
            continue
        if trained.config is None:
            continue
        sources = torch.tensor(
            [trained.config.skeleton.names.index(theirs_) for theirs_ in keypoints.values()], dtype=torch.long
        )
        try:
            if old.shape[1:] != new.shape[1:]:
                raise ValueError(f"its {name} is {_shape(old)} there and {_shape(new)} here")
            own_rows, own_shared = rows[layer].split(len(new), skeleton.num_keypoints)
            old_rows, old_shared = rows[layer].split(len(old), trained.config.skeleton.num_keypoints)
            new[own_rows[targets]] = old[old_rows[sources]]
            new[own_shared] = old[old_shared]
        except (ValueError, RuntimeError):
            return {}, {}, f"its {name} is {_shape(old)} there and {_shape(new)} here"
        head[name] = new
    note = None if trained.config else "the file does not name its keypoints, so their rows are new"
    return head, keypoints, note


def match_keypoints(own: Skeleton, theirs: Skeleton) -> dict[str, str]:
    """The keypoints of `own` that `theirs` has too: own name, and their name.

    Names are compared as they are; then, of the keypoints that are left on both sides, however they are
    spelt, where exactly one of each fits (`left_shoulder`, `LShoulder`, `shoulder.l`). The letters alone
    (`lknee`) count only for keypoints that are mirrored in both sets, because `rear` may be no right ear.
    """
    matched = {name: name for name in own.names if name in theirs.names}
    rules: list[tuple[Callable[[str], Hashable], bool]] = [(plain_name, False), (joined_name, True)]
    for key, needs_mirror in rules:
        left = [
            [
                name
                for index, name in enumerate(skeleton.names)
                if name not in taken and not (needs_mirror and skeleton.flip_order[index] == index)
            ]
            for skeleton, taken in ((own, matched.keys()), (theirs, set(matched.values())))
        ]
        counts = [Counter(map(key, names)) for names in left]
        by_key = {key(name): name for name in left[1]}
        matched |= {
            name: by_key[key(name)] for name in left[0] if all(count[key(name)] == 1 for count in counts)
        }
    return {name: matched[name] for name in own.names if name in matched}


def _scaling(config: ModelConfig | None, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the conversion of images that the trained backbone expects, as part of the network's state."""
    scaling = config.networks[config.network].renormalise if config else None
    if scaling is None:
        return {}
    values = {"renormalise.scale": scaling.scale, "renormalise.shift": scaling.shift}
    return {name: torch.tensor(value).view_as(own[name]) for name, value in values.items()}


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a number"
