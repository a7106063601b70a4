"""The model folder: what it takes to use a trained network, and what is known of it.

    model.safetensors                       the product: the network whose scores come first
    NAME.safetensors                        the other networks of the run (averages, a second one), by name
    config.json                             `ModelConfig`
    README.md                               the model card
    scores.json  card.json  recipe.yaml     as in the folder of the run

A run writes it into RUN/model when it ends. Reading one runs no code of the folder and allocates nothing
before the weights have the shapes that `config.json` asks for. Needs no DALI, Accelerate or webdataset.
"""

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError

from semipose.configs.errors import InputError, one_line
from semipose.configs.settings import settings
from semipose.models.codecs.ae import AESettings
from semipose.models.codecs.cid import CIDSettings
from semipose.models.codecs.dekr import DEKRSettings
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.models.codecs.instances import InstanceCodec
from semipose.models.files import (
    CARD_NAME,
    CONFIG_NAME,
    README_NAME,
    RECIPE_NAME,
    SCORES_NAME,
    read_json,
    write_json,
)
from semipose.models.net import FeatureNet, InstanceHead, NetSettings, build_net
from semipose.models.normalisation import Renormalise
from semipose.models.weight_files import differing_shapes, read_shapes, read_tensors
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.views import Border
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.samples.crop import BOX_PADDING, PersonCrop
from semipose.sharding.store.files import write_atomic

FOLDER_NAME = "model"
METADATA_KEY = "semipose"
"""The metadata of each file of weights hold `config.json` under this key, so that one file is enough."""

Side = Annotated[int, Field(ge=32, le=4096, multiple_of=4)]
Channels = tuple[float, float, float]
NetworkName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


@settings
class ChannelScaling:
    """How images, normalised by ImageNet's mean and deviation, become those that the backbone expects."""

    scale: Channels
    """Factor of each channel."""
    shift: Channels
    """What is then added to each channel."""


@settings
class NetworkConfig:
    """One network of the folder."""

    net: NetSettings
    """Its architecture; `pretrained`, `weights` and `start_from` are not set."""
    renormalise: ChannelScaling | None = None
    """What pretrained weights expect of images; null: what all networks get."""


@settings
class Provenance:
    """Where the networks are from."""

    protocol: str
    """The protocol of the run."""
    method: str
    """The method of the run."""
    step: int
    """Optimiser steps that the networks were trained."""
    seed: int
    """The seed of the run."""
    weights: str
    """What the networks started from, in words."""
    licences: dict[str, str] = field(default_factory=dict)
    """The licence of each set of weights that the networks started from, by name, where it is known."""
    version: str | None
    """The version of semipose that trained them."""


@settings
class ModelConfig:
    """The content of `config.json`: everything that is needed to use the networks of the folder."""

    format_version: Literal[1] = 1
    """Which fields there are."""
    kind: Literal["person", "image"]
    """What the networks see: a view of one person, or a whole photo."""
    network: NetworkName
    """The network that was read; in the file: the product, which is in `model.safetensors`."""
    networks: dict[NetworkName, NetworkConfig]
    """Every network of the folder by name, the product first."""
    heatmap: HeatmapSettings = HeatmapSettings()
    """How heatmaps of single people are decoded."""
    codec: Annotated[AESettings | DEKRSettings | CIDSettings, Field(discriminator="name")] | None = None
    """What the maps of a network of whole photos mean; null for single people."""
    size_hw: tuple[Side, Side] | None = None
    """Height and width in pixels of the view of a person; null for whole photos."""
    crop: PersonCrop | None = None
    """How the shards of the scored people keep a person, which decides how sharp views are; null: not known,
    or whole photos."""
    photo_views: PhotoViewSettings | None = None
    """How whole photos are shown; null for single people."""
    skeleton: Skeleton
    """Names, mirror pairs, bones and OKS sigmas of the keypoints."""
    category_id: int = 1
    """The category of the people in the annotation file."""
    category_name: str = "person"
    """Its name."""
    box_padding: Annotated[float, Field(gt=0)] = BOX_PADDING
    """The view of a person shows the box, extended to the view's aspect ratio and enlarged by this factor."""
    border: Border = "mean"
    """Colour beyond the photo: mean (the mean colour of ImageNet) or black."""
    flip_test: bool = False
    """Whether the scores are those of the flip test."""
    provenance: Provenance
    """Where the networks are from."""

    def __post_init__(self) -> None:
        if self.network not in self.networks or "model" in list(self.networks)[1:]:
            raise ValueError(f"network '{self.network}' is none of {', '.join(self.networks)}")
        is_image = self.kind == "image"
        if (self.codec is None) == is_image or (self.photo_views is None) == is_image:
            raise ValueError(f"kind '{self.kind}' does not fit codec and photo_views")
        if (self.size_hw is None) != is_image:
            raise ValueError(f"kind '{self.kind}' does not fit size_hw")
        for network in self.networks.values():
            head = network.net.head
            if (head.name if isinstance(head, InstanceHead) else None) != (
                self.codec.name if self.codec else None
            ):
                raise ValueError(f"net.head '{head.name}' does not give the maps of the codec")

    @property
    def net(self) -> NetSettings:
        """The architecture of `network`."""
        return self.networks[self.network].net

    @property
    def person_crop(self) -> PersonCrop:
        """How to cut a person out of a photo: as the shards do, or as shards for views of `size_hw` would."""
        assert self.size_hw is not None, "a model of whole photos cuts nobody out"
        return self.crop or PersonCrop(input_size_wh=self.size_hw[::-1])

    def build_codec(self) -> HeatmapCodec | InstanceCodec:
        """What the maps of the networks mean."""
        return self.codec.build(self.skeleton) if self.codec else HeatmapCodec(self.heatmap, self.skeleton)


@dataclass(frozen=True)
class Model:
    """A trained network and how to use it.

    network: in eval mode, on the device. codec: what its maps mean. scores: the content of `scores.json`,
    None where the folder has none. source: what was read, for messages.
    """

    network: FeatureNet
    codec: HeatmapCodec | InstanceCodec
    config: ModelConfig
    scores: dict[str, Any] | None
    source: str


def read_model(source: str | Path, device: torch.device | str, network: str | None = None) -> Model:
    """Read the model in a run's folder, in a model folder, or at `hf://owner/name`.

    network: the name of another network than the product, such as `average`. Raises InputError if there is
    no model, or if it is damaged or was altered.
    """
    folder = model_folder(source)
    config = read_config(folder)
    if network is not None and network not in config.networks:
        raise InputError(f"{source}: it has no network '{network}': choose {', '.join(config.networks)}")
    config = config if network is None else replace(config, network=network)
    weights = folder / weights_name(config, config.network, product=next(iter(config.networks)))
    module = read_network(weights, config)
    return Model(
        network=module.to(device).eval(),
        codec=config.build_codec(),
        config=config,
        scores=read_json(folder / SCORES_NAME) if (folder / SCORES_NAME).is_file() else None,
        source=str(source),
    )


def model_folder(source: str | Path) -> Path:
    """The model folder of a run, of a path that is one, or of `hf://owner/name`, which is downloaded once.

    Raises InputError if there is none.
    """
    from semipose.models import hub  # which reads the folders that it downloads

    if hub.is_address(source):
        return hub.download(source)
    path = Path(source)
    for folder in (path, path / FOLDER_NAME):
        if (folder / CONFIG_NAME).is_file():
            return folder
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise InputError(f"{source}: {what}: give the folder of a run, a model folder or hf://OWNER/NAME")
    if (path / RECIPE_NAME).is_file():
        raise InputError(
            f"{source}: the run has no model folder yet: it writes one when it ends. `semipose evaluate "
            f"{shlex.quote(str(source))}` scores its newest checkpoint and writes one too"
        )
    raise InputError(f"{source}: it holds no {CONFIG_NAME}, so it is neither a model folder nor a run")


def read_config(folder: Path) -> ModelConfig:
    """The content of `config.json`. Raises InputError."""
    path = folder / CONFIG_NAME
    return parse_config(json.dumps(read_json(path)), str(path))


def parse_config(content: str, where: str) -> ModelConfig:
    """A ModelConfig from its JSON. Raises InputError that begins with `where`."""
    try:
        return TypeAdapter(ModelConfig).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{where}: {key}: {first['msg']}: the file was altered, or another version of semipose wrote it"
        ) from None
    except RecursionError:
        raise InputError(f"{where}: it is nested too deeply to be a model's") from None


def weights_name(config: ModelConfig, network: str, *, product: str) -> str:
    """The name of the file that holds the weights of a network."""
    assert network in config.networks
    return "model.safetensors" if network == product else f"{network}.safetensors"


def read_network(weights: Path, config: ModelConfig) -> FeatureNet:
    """The network of `config` with the weights in a file, on the CPU. Raises InputError.

    The random state of torch stays as it is.
    """
    own = config.networks[config.network]
    num_keypoints = config.skeleton.num_keypoints
    shapes = read_shapes(weights)
    where = f"{weights}: net.backbone '{own.net.backbone.name}', net.head '{own.net.head.name}'"
    try:
        with torch.device("meta"):  # takes no memory, however large the file says that the network is
            planned = build_net(own.net, num_keypoints, loads_weights=False).state_dict()
        wanted = {name: tuple(value.shape) for name, value in planned.items()}
        if differences := differing_shapes(wanted, shapes):
            raise InputError(
                f"{weights}: these are not the weights of the network in {CONFIG_NAME}, with tensors "
                f"{differences}: get the folder again"
            )
        with torch.random.fork_rng(devices=[]):
            network = build_net(own.net, num_keypoints, loads_weights=False)
    except InputError as error:
        raise InputError(str(error) if str(weights) in str(error) else f"{weights}: {error}") from None
    except (RuntimeError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise InputError(f"{where}: it cannot be built ({one_line(error)})") from error
    tensors = read_tensors(weights)
    for name, tensor in tensors.items():
        if tensor.dtype != planned[name].dtype or not tensor.isfinite().all():
            raise InputError(
                f"{weights}: {name} holds other values than finite numbers of type {planned[name].dtype}: "
                "get the folder again"
            )
    network.load_state_dict(tensors)
    if own.renormalise is not None:
        network.renormalise = Renormalise(own.renormalise.scale, own.renormalise.shift)
    return network


def write_model(
    folder: Path,
    networks: Mapping[str, FeatureNet],
    config: ModelConfig,
    *,
    readme: str,
    scores: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    recipe: str | None = None,
) -> Path:
    """Write a model folder, whole or not at all, in the place of an earlier one; returns `folder`.

    `networks` are those of `config` by name, on any device. A folder is written beside it under a name that
    ends in `.tmp` and then renamed.
    """
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    former = folder.with_name(f"{folder.name}.former.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        content = TypeAdapter(ModelConfig).dump_json(config, indent=1).decode()
        for name, network in networks.items():
            own = json.dumps({**json.loads(content), "network": name})
            tensors = {
                key: value.detach().cpu().contiguous().clone()
                for key, value in network.state_dict().items()
                if not key.startswith("renormalise.")  # it is in the config
            }
            # One key alone: with more, the library writes them in a random order.
            encoded = safetensors.torch.save(tensors, {METADATA_KEY: own})
            write_atomic(aside / weights_name(config, name, product=config.network), encoded)
        texts = {CONFIG_NAME: content + "\n", README_NAME: readme}
        texts |= {RECIPE_NAME: recipe} if recipe is not None else {}
        for name, text in texts.items():
            write_atomic(aside / name, text.encode())
        for name, values in ((SCORES_NAME, scores), (CARD_NAME, card)):
            if values is not None:
                write_json(aside / name, values)
        if folder.exists():
            folder.replace(former)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
    return folder
