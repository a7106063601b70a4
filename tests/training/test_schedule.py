from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semipose.configs.load import InputError, load
from semipose.training.schedule import Cosine, Milestones, is_due
from semipose.training.settings import RunSettings


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


def test_cosine_can_hold_the_base_rate_for_a_share_of_the_run_first() -> None:
    """Like the whole cosine over the steps that are left."""
    held, short = Cosine(hold=0.8), Cosine()
    assert [held.scale(step, 100) for step in range(80)] == [1] * 80
    assert [held.scale(80 + step, 100) for step in range(20)] == pytest.approx(
        [short.scale(step, 20) for step in range(20)]
    )


def test_warm_up_is_a_line_that_ends_at_the_base_rate() -> None:
    scale = Milestones(warm_up_steps=4).scale
    assert [scale(step, 1000) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Milestones(at=(0.5, 0.75, 0.9)), "times 0.1 at 0.5, 0.75 and 0.9 of the schedule"),
        (Milestones(at=(), warm_up_steps=1500), "constant, after a warm-up of 1,500 steps"),
        (
            Cosine(hold=0.8, warm_up_steps=20),
            "half a cosine to 0 from 0.8 of the schedule on, after a warm-up of",
        ),
    ],
)
def test_the_schedule_is_said_in_words(schedule: Milestones | Cosine, words: str) -> None:
    assert schedule.words.startswith(words)


def due(every: int | float, total_steps: int) -> list[int]:
    return [step for step in range(1, total_steps + 1) if is_due(step, every, total_steps)]


def test_a_count_is_due_at_its_multiples() -> None:
    assert due(4682, 30 * 4682) == [4682 * epoch for epoch in range(1, 31)]
    assert due(5000, 2000) == []
    assert due(1, 3) == [1, 2, 3]


@pytest.mark.parametrize("total_steps", [1, 2, 7, 10, 15, 99, 100, 1010, 2000, 140_460])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.05, 0.02])
def test_a_share_is_due_as_often_as_it_fits_into_the_run(share: float, total_steps: int) -> None:
    """The last time after the last step, never twice after one, and as evenly as whole steps allow."""
    steps = due(share, total_steps)
    assert len(steps) == min(total_steps, round(1 / share))
    assert steps[-1] == total_steps
    gaps = {after - before for before, after in pairwise([0, *steps])}
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 3000), st.integers(1, 99), st.integers(1, 9))
def test_what_is_due_at_a_multiple_of_a_share_is_due_at_the_share(
    total_steps: int, hundredths: int, times: int
) -> None:
    """So a scoring whose share is a multiple of that of the checkpoints always finds one."""
    assume(hundredths * times < 100)
    often, rarely = due(hundredths / 100, total_steps), due(hundredths * times / 100, total_steps)
    assert set(rarely) <= set(often)


def test_a_short_run_by_the_defaults_is_scored_ten_times_and_saved_twenty_times() -> None:
    cfg = load(RunSettings, None, ["output=x", "data={train: a, val: b}", "steps=2000"])
    assert due(cfg.evaluate_every, 2000) == list(range(200, 2001, 200))
    assert due(cfg.checkpoint_every, 2000) == list(range(100, 2001, 100))


@pytest.mark.parametrize("every", ["0", "0.0", "1.0", "1.5", "-0.1", "often"])
def test_what_is_neither_a_count_nor_a_share_is_refused(every: str) -> None:
    words = ["output=x", "data={train: a, val: b}", f"evaluate_every={every}"]
    with pytest.raises(InputError, match=r"evaluate_every: expected a whole number >= 1 or a number > 0 < 1"):
        load(RunSettings, None, words)


@pytest.mark.parametrize("at", [(0.8, 0.5), (0.0,), (1.0,), (20.0,)])
def test_milestones_outside_the_run_are_refused(at: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be shares of the run"):
        Milestones(at=at)


@pytest.mark.parametrize("change", ["{name: cosine, warm_up_steps: -1}", "{factor: 0.0}"])
def test_a_rate_that_would_not_be_positive_is_refused(change: str) -> None:
    words = ["output=x", "data={train: a, val: b}", f"optim.schedule={change}"]
    with pytest.raises(InputError, match=r"expected a (whole )?number >"):
        load(RunSettings, None, words)
