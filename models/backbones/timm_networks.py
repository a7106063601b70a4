"""Networks of timm by name, and where their weights come from: a local file, the cache or the hub."""

import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import timm.models
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from configs.errors import InputError, one_line, why_unreadable

REACH_TIMEOUT_S = 5.0


def build_network(
    name: str,
    *,
    prune: Callable[[Any], None],
    pretrained: bool = False,
    weights: Path | None = None,
    **options: Any,
) -> Any:
    """Return timm's network `name` after `prune` took off, in place, what a pose network does not use.

    `weights`, a state dict of torchvision or timm, goes before `pretrained`; `options` go to timm. Raises
    InputError where timm has no such network or its weights cannot be had.
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
    """Return timm's network; InputError, with near names, if there is none, TypeError for a wrong option."""
    if not timm.is_model(name):
        near = get_close_matches(name.lower(), timm.list_models(), n=3, cutoff=0.4)
        raise InputError(
            f"net.backbone.model: timm has no model '{name}': name one of timm.list_models()"
            + (f", for instance {', '.join(near)}" if near else "")
        )
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"net.backbone.model: timm cannot make '{name}': {one_line(error)}{_tags(name)}"
        ) from error


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation, of RGB in 0..1, by which the images for timm's weights are normalised.

    `name` with a tag stands for the weights of that tag, without one for timm's default.
    """
    cfg: Any = timm.models.get_pretrained_cfg(name)
    return tuple(cfg.mean), tuple(cfg.std)


def load_weights(module: nn.Module, path: Path, *, spare: Collection[str] = ()) -> None:
    """Load a state dict of torchvision or timm; what it holds under the names `spare` is left out.

    No code in the file is run. Raises InputError where there is no such file, or it does not hold exactly
    these weights.
    """
    if not path.is_file():
        raise InputError(f"net.weights: there is no file {path}: name a state dict of torchvision or timm")
    try:
        # timm before 1.0.26 runs the code in a pickle unless asked not to.
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
        found = module.load_state_dict(state, strict=False)
        foreign = [name for name in found.unexpected_keys if name not in spare]
        if found.missing_keys:
            raise ValueError(f"it has no {_few(found.missing_keys)}")
        if foreign:
            raise ValueError(f"the backbone has no {_few(foreign)}")
    except Exception as error:  # whatever unpickling a file that is no checkpoint may raise
        raise InputError(
            f"net.weights: {path} does not hold the weights of this backbone ({why_unreadable(error)}): "
            "name a state dict of torchvision or timm for the same model"
        ) from error


def _create_pretrained(name: str, **options: Any) -> Any:
    """Return timm's network with its weights: from the local cache, or downloaded.

    The hub's client goes on for a minute with a host that cannot be reached, so we reach for it once first.
    """
    cfg = create(name, **options).pretrained_cfg
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
    except Exception as error:  # the client's own kinds come and go with its HTTP library
        raise InputError(
            f"net.pretrained: the weights of '{name}' could not be downloaded from {constants.ENDPOINT} "
            f"({one_line(error)}): set net.pretrained=false, or net.weights=PATH to a local file of them"
        ) from error


def _reach(url: str) -> None:
    """Raise OSError, in seconds, where `url` cannot be reached; any answer of a server will do."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return


def _tags(name: str) -> str:
    """Return the tags of weights that `name`, asked for with a tag, has; empty without one."""
    model, _, tag = name.partition(".")
    known = timm.list_models(f"{model}.*", pretrained=True) if tag else []
    return f" (there are {', '.join(known)})" if known else ""


def _few(names: list[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
