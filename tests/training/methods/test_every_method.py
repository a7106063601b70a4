"""What holds for every method: known losses, also of the published rows, a whole state, that it can learn."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.models.backbones.light import LightSettings
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings, decode
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, PoseNet, build_net
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.loader import labelled_loader, unlabelled_loader
from semipose.pipelines.source import Split, open_split
from semipose.pipelines.views import PLAIN, ViewSettings
from semipose.training.methods.method import Ingredients, Method, Progress
from semipose.training.methods.random_state import RandomState
from semipose.training.settings import load_run
from tests.training.tiny import METHODS, NET, SIGMA, SIZE_HW, make_batches, make_settings
from tests.training.tiny import make_method as make_tiny_method

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "five_steps.json"
CONFIGS = Path(__file__).resolve().parents[3] / "configs"
PUBLISHED = [
    *(
        f"coco-1k/{file.stem}"
        for file in sorted((CONFIGS / "methods").glob("*.yaml"))
        if "coco-1k: AP" in file.read_text() or file.stem == "double_match"
    ),
    *("coco+wild/multiaugs_single", "coco+wild/multiaugs_dual"),
]
"""A run for each published row (docs/methods.md 10); more labels change the protocol alone."""
UPDATE = "UPDATE_GOLDEN"
LARGER = NetSettings(
    backbone=LightSettings(stem_channels=12, channels=(16, 24, 32), blocks=(1, 1, 1)),
    head=PyramidSettings(width=16, convolutions=1),
)
Batches = Iterator[tuple[LabelledBatch, UnlabelledBatch]]


@pytest.fixture(scope="module")
def split(drawn_shards: Path) -> Split:
    return open_split(drawn_shards / "train")


@pytest.fixture
def batches(split: Split) -> Iterator[Callable[..., Batches]]:
    """`batches(views)`: pairs of batches of four drawn people, the same at every call."""
    loaders: list[Any] = []

    def start(views: ViewSettings) -> Batches:
        loaders.extend(
            make(split, views, batch_size=4, seed=0) for make in (labelled_loader, unlabelled_loader)
        )
        return zip(*loaders[-2:], strict=True)

    yield start
    for loader in loaders:
        loader.close()


def make_method(name: str, split: Split, net: NetSettings = NET, **changes: Any) -> Method:
    """A method for the drawn people's skeleton; the same weights at every call."""
    torch.manual_seed(0)
    random_state = RandomState(0, 0, torch.device("cpu"))
    codec = HeatmapCodec(HeatmapSettings(sigma=SIGMA), split.skeleton)
    num_keypoints = split.skeleton.num_keypoints
    ingredients = Ingredients(lambda other: build_net(other or net, num_keypoints), codec, random_state)
    return make_settings(**(METHODS[name] | changes)).build(ingredients).train()


def train(
    method: Method,
    batches: Batches,
    steps: range,
    optimizer: torch.optim.Optimizer,
    total_steps: int = 1000,
) -> list[float]:
    """The loss of each step."""
    losses = []
    for step, (labelled, unlabelled) in zip(steps, batches, strict=False):
        progress = Progress(step, total_steps)
        result = method(labelled, unlabelled if method.wants_unlabelled(progress) else None, progress)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        optimizer.step()
        method.after_update(progress)
        losses.append(result.loss.item())
    return losses


def adam(method: Method, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are taken in one order then: five steps of Adam turn another last digit into a thousandth."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_double(method: Method) -> Method:
    """Let the networks compute in float64, where Adam does not turn a CPU's rounding into whole steps: what
    has no gradient except by rounding, such as a bias before a normalisation, would take some in float32."""
    for module in method.double().modules():
        if isinstance(module, PoseNet):
            module.register_forward_pre_hook(lambda _, views: (views[0].double(), *views[1:]))
    return method


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", METHODS)
def test_five_steps_have_the_known_losses(name: str, split: Split, batches: Callable[..., Batches]) -> None:
    """Run with UPDATE_GOLDEN=1 after a change that is meant to move them, and say why in the commit."""
    method = in_double(make_method(name, split))
    losses = train(method, batches(ViewSettings(size_hw=SIZE_HW)), range(5), adam(method))
    compare_with_known(name, losses)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("recipe", PUBLISHED)
def test_five_steps_of_a_published_row_have_the_known_losses(
    recipe: str, split: Split, batches: Callable[..., Batches]
) -> None:
    """Method and views are the recipe's own, network and people small; of six steps pseudo labels take the
    last three."""
    protocol, method = recipe.split("/")
    cfg = load_run([CONFIGS / "protocols" / f"{protocol}.yaml", CONFIGS / "methods" / f"{method}.yaml"])
    torch.manual_seed(0)
    ingredients = Ingredients(
        lambda _: build_net(NET, split.skeleton.num_keypoints),
        HeatmapCodec(HeatmapSettings(sigma=SIGMA), split.skeleton),
        RandomState(0, 0, torch.device("cpu")),
    )
    method = in_double(cfg.method.build(ingredients).train())
    views = replace(cfg.views, size_hw=SIZE_HW)
    compare_with_known(recipe, train(method, batches(views), range(5), adam(method), total_steps=6))


def compare_with_known(name: str, losses: list[float]) -> None:
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get(UPDATE):
        GOLDEN.write_text(json.dumps(known | {name: losses}, indent=1) + "\n")
        return
    assert losses == pytest.approx(known[name], rel=2e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_method_goes_on_bit_for_bit(
    name: str, split: Split, batches: Callable[..., Batches]
) -> None:
    """Averages, copies of the previous epoch, batch statistics and draws are all in the saved state."""
    pairs = [pair for pair, _ in zip(batches(ViewSettings(size_hw=SIZE_HW)), range(6), strict=False)]
    method = make_method(name, split)
    optimizer = adam(method)
    train(method, iter(pairs[:3]), range(3), optimizer)
    file = io.BytesIO()
    torch.save([method.state_dict(), method.rank_state(), optimizer.state_dict()], file)
    expected = train(method, iter(pairs[3:]), range(3, 6), optimizer)

    file.seek(0)
    state, rank_state, optimizer_state = torch.load(file, weights_only=True)
    again = make_method(name, split)
    other = adam(again)
    again.load_state_dict(state)
    again.load_rank_state(rank_state)
    other.load_state_dict(optimizer_state)
    assert train(again, iter(pairs[3:]), range(3, 6), other) == expected
    for key, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", METHODS)
def test_it_says_whether_every_step_reaches_every_parameter(name: str) -> None:
    """Several ranks wait for ever for the gradient of a parameter that a step leaves out."""
    settings = METHODS[name] | ({} if name in ("supervised", "pseudo label") else {"burn_in": 0.5})
    reached = []
    for step in (0, 99):
        method = make_tiny_method(**settings)
        labelled, unlabelled = make_batches()
        progress = Progress(step, 100)
        method(labelled, unlabelled if method.wants_unlabelled(progress) else None, progress).loss.backward()
        reached += [p.grad is not None for p in method.parameters() if p.requires_grad]
    assert make_settings(**settings).uses_every_parameter == all(reached)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_learns_four_people_by_heart(name: str, split: Split, batches: Callable[..., Batches]) -> None:
    """The same plain views, once labelled and once not; the unlabelled ones in the second half."""
    labelled, _ = next(batches(ViewSettings(size_hw=SIZE_HW, labelled=PLAIN)))
    same = UnlabelledBatch(labelled.image, labelled.image, torch.eye(2, 3).repeat(4, 1, 1))
    halves = {"supervised": {}, "pseudo_label": {"teacher_share": 0.5}}
    method = make_method(name, split, LARGER, **halves.get(METHODS[name]["name"], {"burn_in": 0.5}))
    steps = range(400)
    train(method, ((labelled, same) for _ in steps), steps, adam(method), total_steps=400)
    network = next(iter(method.networks().values()))
    with torch.no_grad():
        found, _ = decode(network(labelled.image), network.stride)
    away_px = (found - labelled.points_xy).norm(dim=-1)[labelled.visible > 0]
    assert (away_px < 5).float().mean() > 0.9
