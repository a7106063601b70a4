import pytest

from configs.load import InputError, load
from training.schedule import Cosine, Milestones
from training.settings import RunSettings


def test_published_milestones_fall_at_epochs_20_and_25_of_30() -> None:
    scale = Milestones().scale
    steps = 30 * 4682
    assert scale(20 * 4682 - 1, steps) == 1
    assert scale(20 * 4682, steps) == pytest.approx(0.1)
    assert scale(25 * 4682 - 1, steps) == pytest.approx(0.1)
    assert scale(25 * 4682, steps) == pytest.approx(0.01)


def test_cosine_falls_from_one_to_nearly_zero_by_half_at_the_middle() -> None:
    scale = Cosine().scale
    assert scale(0, 100) == 1
    assert scale(50, 100) == pytest.approx(0.5)
    assert 0 < scale(99, 100) < 0.001


def test_warm_up_is_a_line_that_ends_at_the_base_rate() -> None:
    scale = Milestones(warm_up_steps=4).scale
    assert [scale(step, 1000) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize("at", [(0.8, 0.5), (0.0,), (1.0,), (20.0,)])
def test_milestones_outside_the_run_are_refused(at: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rising shares of the run"):
        Milestones(at=at)


@pytest.mark.parametrize("change", ["{name: cosine, warm_up_steps: -1}", "{factor: 0.0}"])
def test_a_rate_that_would_not_be_positive_is_refused(change: str) -> None:
    words = ["output=x", "data={train: a, val: b}", f"optim.schedule={change}"]
    with pytest.raises(InputError, match=r"expected a (whole )?number >"):
        load(RunSettings, None, words)
