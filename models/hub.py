"""Trained networks from a model hub: `hf://owner/name`, with a revision `hf://owner/name@revision`.

Only the files that `config.json` names are downloaded, once, into the cache of the hub's client.
"""

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from semipose.configs.errors import InputError, one_line
from semipose.models.backbones.timm_networks import REACH_TIMEOUT_S
from semipose.models.files import CARD_NAME, CONFIG_NAME, LARGEST_JSON, README_NAME, RECIPE_NAME, SCORES_NAME
from semipose.models.model_folder import (
    ModelConfig,
    read_config,
    weights_name,
)
from semipose.models.net import build_net

SCHEME = "hf://"
BESIDE = (SCORES_NAME, README_NAME, CARD_NAME, RECIPE_NAME)
"""Files that say what is known of a model; it can be used without them."""
HEADER_BYTES = 1 << 24


class Repository(NamedTuple):
    """A repository of models on the hub."""

    name: str
    """owner/name."""
    revision: str | None = None
    """A branch, a tag or a commit; None: the newest."""


def is_address(source: str | Path) -> bool:
    """Whether a source is on the hub. As a path, `hf://` has lost a slash."""
    return re.match(r"hf:/", str(source)) is not None


def parse_address(source: str | Path) -> Repository:
    """The repository of `hf://owner/name[@revision]`. Raises InputError."""
    part = r"[A-Za-z0-9_][\w.-]{0,95}"
    match = re.fullmatch(rf"hf:/{{1,2}}({part}/{part})(?:@([\w./-]+))?", str(source), re.ASCII)
    if match is None or ".." in match[0]:
        raise InputError(
            f"{source}: this is no address of a model: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        )
    return Repository(match[1], match[2])


def download(source: str | Path) -> Path:
    """The model folder at an address, in the client's cache; without a connection, what the cache has.

    Raises InputError if there is no such model, and for files that are larger than the model that
    `config.json` describes.
    """
    repository = parse_address(source)
    address = f"{SCHEME}{repository.name}"
    try:
        if not _is_reachable():
            return _cached(repository)
        info = HfApi(constants.ENDPOINT).model_info(
            repository.name, revision=repository.revision, files_metadata=True
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if sizes.get(CONFIG_NAME, LARGEST_JSON + 1) > LARGEST_JSON:
            raise InputError(
                f"{address}: it holds no {CONFIG_NAME} of a usual size, so it is no model of semipose"
            )
        folder = Path(_fetch(repository, CONFIG_NAME, repository.revision)).parent
        weights = _most_bytes(read_config(folder))
        for name, limit in weights.items():
            if sizes.get(name, limit + 1) > limit:
                raise InputError(
                    f"{address}: {name} is missing, or has more bytes than its network needs "
                    f"({limit:,} at most)"
                )
        beside = [name for name in BESIDE if 0 < sizes.get(name, 0) <= LARGEST_JSON]
        for name in (*weights, *beside):
            _fetch(repository, name, folder.name)  # the commit, which a branch may leave meanwhile
        return folder
    except InputError:
        raise
    except Exception as error:  # the exception types of the client depend on its HTTP library
        raise InputError(
            f"{address}: it could not be downloaded from {constants.ENDPOINT} ({one_line(error)}): check the "
            "name and the connection; a private model needs a token (HF_TOKEN)"
        ) from error


def _is_reachable() -> bool:
    """Whether the hub answers anything within seconds; its client tries an absent host for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _cached(repository: Repository) -> Path:
    """The folder of a model that was downloaded before. Raises InputError if it was not."""
    try:
        names = [CONFIG_NAME]
        folder = Path(_from_cache(repository, CONFIG_NAME)).parent
        names += _most_bytes(read_config(folder))
        for name in names:
            _from_cache(repository, name)
        return folder
    except (LocalEntryNotFoundError, EntryNotFoundError):
        raise InputError(
            f"{SCHEME}{repository.name}: {constants.ENDPOINT} cannot be reached, and the model was not "
            "downloaded before: connect this machine, or copy the folder of the model here and give its path"
        ) from None


def _fetch(repository: Repository, name: str, commit: str | None) -> str:
    return hf_hub_download(repository.name, name, revision=commit, endpoint=constants.ENDPOINT)


def _from_cache(repository: Repository, name: str) -> str:
    return hf_hub_download(repository.name, name, revision=repository.revision, local_files_only=True)


def _most_bytes(config: ModelConfig) -> dict[str, int]:
    """The most bytes that the file of each network can have, by its name."""
    most = {}
    for name, network in config.networks.items():
        with torch.device("meta"):
            state = build_net(network.net, config.skeleton.num_keypoints, loads_weights=False).state_dict()
        size = sum(value.numel() * value.element_size() for value in state.values())
        most[weights_name(config, name, product=next(iter(config.networks)))] = size + HEADER_BYTES
    return most
