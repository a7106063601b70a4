"""The report: no transfer before its time, exact means, a file that survives resume, alarms that ring."""

import io
import json
import math
import operator
import re
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semipose.training.methods import METHODS as ALL_METHODS
from semipose.training.methods.method import OptionNames, TeacherHealth, Terms
from semipose.training.reporting import report as report_module
from semipose.training.reporting.collapse import CollapseSettings, CollapseWatch
from semipose.training.reporting.display import LABELS
from semipose.training.reporting.report import Interval, NonFiniteLoss, Report
from semipose.training.reporting.trackers import JsonLines
from tests.training.tiny import LATE, METHODS, make_batches, make_method, make_settings


@pytest.fixture
def accelerator(fresh_accelerate):
    return Accelerator(cpu=True)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report_module, "time", clock)
    return clock


def make(folder: Path, accelerator: Accelerator, *, every: int = 4, terminal: bool = False, **more) -> Report:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    options = OptionNames("method.min_peak", "method.burn_in", "method.weight")
    more = {"total_steps": 40, "options": options, **more}
    return Report(folder, accelerator, every=every, console=console, **more)


def shown(report: Report) -> str:
    return report._display.console.file.getvalue()


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def terms(step: int, *, loss_mixed: float | None = None, **shown: float) -> Terms:
    losses = {"loss": float(step)} | ({} if loss_mixed is None else {"loss_mixed": loss_mixed})
    return Terms(
        {name: torch.tensor(value) for name, value in losses.items()},
        shown={**{name: torch.tensor(value) for name, value in shown.items()}, "lr": 0.5},
    )


def health(peak: float, share: float = 0.5, mark: str = "") -> Terms:
    return Terms({}, {mark: TeacherHealth(torch.tensor(peak), torch.tensor(share))})


def test_terms_are_not_read_before_a_report_is_due():
    interval = Interval()
    meta = torch.zeros((), device="meta")  # a tensor without values: whoever reads it fails
    for step in range(3):
        interval.add(step, {"loss": meta, "alpha": meta.to(torch.bfloat16), "count": meta.long()}, 0.0, 8)
    with pytest.raises((NotImplementedError, RuntimeError)):
        interval.read()


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_before_a_report_is_due():
    interval = Interval()
    loss = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            interval.add(step, {"loss": loss, "count": loss.long(), "lr": 0.1}, 0.0, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert interval.read()[0][2] == {"loss": 1.0, "count": 1.0, "lr": 0.1}


def test_report_gives_the_mean_of_each_term_over_the_steps_that_have_it(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        for step in range(1, 9):
            more = {"alpha": float(step)} if step > 2 else {}
            report.step(step, terms(step, **more), 0.0, samples=8)
            assert len(lines(tmp_path)) == step // 4
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], first["alpha"], first["lr"]) == (4, 2.5, 3.5, 0.5)
    assert (second["step"], second["loss"], second["alpha"]) == (8, 6.5, 6.5)


def test_terms_are_copied_as_the_step_may_reuse_their_memory(tmp_path, accelerator):
    buffer = torch.tensor(1.0)
    with make(tmp_path, accelerator, every=2) as report:
        report.step(1, Terms({"loss": buffer}), 0.0, samples=8)
        buffer.fill_(5.0)
        report.step(2, Terms({"loss": buffer}), 0.0, samples=8)
    assert lines(tmp_path)[0]["loss"] == 3.0


def test_terms_must_be_scalars():
    with pytest.raises(ValueError, match=r"0-dim.*'loss': \(2,\)"):
        Interval().add(1, {"loss": torch.zeros(2)}, 0.0, 8)


def test_what_is_left_is_reported_at_the_end(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        for step in range(1, 7):
            report.step(step, terms(step), 0.0, samples=8)
    assert [line["step"] for line in lines(tmp_path)] == [4, 6]
    assert lines(tmp_path)[1]["loss"] == 5.5


def test_speed_counts_neither_pauses_nor_the_time_between_them(tmp_path, accelerator, clock):
    with make(tmp_path, accelerator, every=2) as report:
        clock.now += 1.0
        report.step(1, terms(1), 0.5, samples=8)
        with report.pause("scoring"):
            clock.now += 100.0
        clock.now += 3.0
        report.step(2, terms(2), 0.5, samples=8)
        with report.pause("saving"):
            report.flush()
            clock.now += 100.0
        clock.now += 2.0
        report.step(3, terms(3), 0.0, samples=8)
    first, second = lines(tmp_path)
    assert (first["samples_per_s"], first["data_wait_share"], first["seconds_per_step"]) == (4.0, 0.25, 2.0)
    assert (second["samples_per_s"], second["seconds_per_step"]) == (4.0, 2.0)


def test_flush_inside_a_pause_keeps_the_clock_stopped(tmp_path, accelerator, clock):
    with make(tmp_path, accelerator) as report:
        clock.now += 1.0
        report.step(1, terms(1), 0.0, samples=8)
        with report.pause("saving"):
            clock.now += 50.0
            report.flush()
            clock.now += 50.0
    assert lines(tmp_path)[0]["seconds_per_step"] == 1.0


def test_line_of_text_where_there_is_no_terminal(tmp_path, accelerator, clock):
    with make(tmp_path, accelerator) as report:
        for step in range(1, 5):
            clock.now += 2.0
            report.step(step, terms(0, masks=4.25, hard_share=0.1, teacher_cells=0.0123), 0.5, samples=8)
    assert shown(report) == (
        "train 4/40  loss 0  masks 4.2  hard 10%  cells 1.23%  lr 0.5  4 samples/s  wait 25%  ETA 1:12\n"
    )


def test_names_of_terms_are_those_that_a_run_gives():
    given = make_method(**METHODS["adaptive"])(*make_batches(), LATE).terms.by_name()
    assert set(LABELS) <= {*given, "lr"}


def test_bar_and_terms_on_a_terminal(tmp_path, accelerator):
    with make(tmp_path, accelerator, terminal=True) as report:
        for step in range(1, 6):
            report.step(step, terms(step), 0.0, samples=8)
        report.note("a note")
    text = shown(report)
    assert "━" in text
    assert "5/40" in text
    assert "a note" in text
    assert "samples/s" in text


def test_scores_are_logged_and_the_main_ones_shown(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        report.scores(4, {"net": {"AP": 0.25, "PCK/head": 0.5}})
    assert lines(tmp_path) == [{"step": 4, "net/AP": 0.25, "net/PCK/head": 0.5}]
    assert "scores of net: AP 0.250" in shown(report)
    assert "head" not in shown(report)


def test_tensorboard_has_the_same_numbers(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        for step in range(1, 9):
            report.step(step, terms(step), 0.0, samples=8)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 2.5), (8, 6.5)]


def test_resumed_run_cuts_what_lies_beyond_its_step(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        for step in range(1, 5):
            report.step(step, terms(step), 0.0, samples=8)
        saved = report.state_dict()
        for step in range(5, 13):
            report.step(step, terms(step), 0.0, samples=8)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # a kill in the middle of a line
    accelerator.end_training()
    accelerator.trackers.clear()
    time.sleep(1.1)  # TensorBoard orders its files by the second in their names
    resumed = make(tmp_path, accelerator)
    resumed.load_state_dict(saved)
    with resumed:
        for step in range(5, 9):
            resumed.step(step, terms(step), 0.0, samples=8)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(4, 2.5), (8, 6.5)]
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8]


def test_number_that_json_lacks_becomes_null(tmp_path):
    tracker = JsonLines(tmp_path / "metrics.jsonl", keep_until_step=0, say=pytest.fail)
    tracker.start()
    tracker.log({"a": math.nan, "b": math.inf, "c": 1}, step=3)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "a": null, "b": null, "c": 1}\n'


def test_a_note_counts_missing_and_damaged_lines(tmp_path):
    """As a loss of power leaves them: they were never flushed to the disk."""
    rows = [b'{"step": 2, "a": 1}', b"\xff\x00", b'{"step": NaN}', b'{"step": 4, "a": 2}', b'{"step": 9, "a"']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(rows))
    said: list[str] = []
    JsonLines(tmp_path / "metrics.jsonl", keep_until_step=8, say=said.append).start()
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines() == [rows[0], rows[3]]
    assert len(said) == 2
    assert "lacks the lines of steps 5 to 8" in said[0]
    assert "2 damaged lines" in said[1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("term", ["loss", "loss_mixed"])
def test_loss_that_is_not_finite_stops_the_run(tmp_path, accelerator, term, value):
    report = make(tmp_path, accelerator)

    def train() -> None:
        with report:
            for step in range(1, 9):
                bad = Terms({term: torch.tensor(value)} if step >= 6 else {})
                report.step(step, terms(step) | health(0.5) | bad, 0.0, samples=8)

    with pytest.raises(
        NonFiniteLoss, match=rf"from step 6 on \(seen at the report of step 8\).*{term} {value}"
    ):
        train()
    assert lines(tmp_path)[-1][term] is None


def test_flush_before_a_save_finds_a_broken_loss_that_is_not_due(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        report.step(1, Terms({"loss": torch.tensor(math.nan)}), 0.0, samples=8)
        with pytest.raises(NonFiniteLoss):
            report.flush()


def test_a_term_that_is_no_loss_may_be_infinite(tmp_path, accelerator):
    with make(tmp_path, accelerator, every=1) as report:
        report.step(1, terms(1, alpha=math.inf), 0.0, samples=8)
    assert lines(tmp_path)[0]["alpha"] is None


def test_other_ranks_neither_show_nor_log(tmp_path):
    class OtherRank:
        is_main_process = False
        mixed_precision = "no"

        def init_trackers(self, _: str) -> None:
            pass

        def log(self, *_: object, **__: object) -> None:
            pytest.fail("another rank logged")

    with make(tmp_path, OtherRank(), every=2) as report:
        for step in range(1, 5):
            report.step(step, terms(step), 0.0, samples=8)
        report.note("unseen")
        report.step(5, terms(math.nan), 0.0, samples=8)
        with pytest.raises(NonFiniteLoss):
            report.flush()
    assert not (tmp_path / "metrics.jsonl").exists()


def train_trusting(report: Report, shares: dict[int, float], *, until: int = 40, name: str = "") -> str:
    """Steps with a share of trusted labels, 0 where `shares` does not say another; what was shown."""
    with report:
        for step in range(report.last_step + 1, until + 1):
            report.step(step, terms(step) | health(0.125, shares.get(step, 0.0), name), 0.0, samples=8)
    return shown(report)


@pytest.mark.parametrize("name", ["", "_2"])
def test_a_run_in_which_nothing_is_ever_trusted_says_so_once_after_the_ramp_and_at_its_end(
    tmp_path, accelerator, name
):
    text = train_trusting(make(tmp_path, accelerator, watch_from_step=10), {}, name=name)
    assert text.count("no pseudo label has counted") == 2
    assert text.index("train 16/40") < text.index("warning: by step 16 no pseudo label has counted")
    assert text.index("train 40/40") < text.index("warning: in the whole run no pseudo label has counted")
    assert text.count("was 0.12 at best (teacher_peak): lower method.min_peak below that") == 2


@pytest.mark.parametrize("name", [method.name for method in ALL_METHODS if method.uses_unlabelled])
def test_a_warning_names_only_options_that_its_method_has(tmp_path, accelerator, name):
    cfg = make_settings(name)
    text = train_trusting(make(tmp_path, accelerator, options=cfg.options), {})
    named = re.findall(r"method\.([a-z_.]+)", f"{text} {cfg.options.weight}")
    assert len(named) >= 4
    for path in named:
        operator.attrgetter(path.rstrip("."))(cfg)


def test_one_label_that_counts_is_trust(tmp_path, accelerator):
    """Wherever it was; labels that count late end the warning of before."""
    assert "no pseudo label" not in train_trusting(make(tmp_path, accelerator), {2: 1e-3})
    late = train_trusting(make(tmp_path, accelerator, watch_from_step=10), {30: 1e-3})
    assert late.count("no pseudo label has counted") == 1


def test_trust_is_remembered_across_a_resume(tmp_path, accelerator):
    """A run that was saved before its end has not ended; one of an older version knows nothing."""
    first = make(tmp_path, accelerator, watch_from_step=10)
    assert train_trusting(first, {}, until=24).count("no pseudo label has counted") == 1
    again = make(tmp_path, accelerator, watch_from_step=10)
    again.load_state_dict(first.state_dict())
    assert "warning: in the whole run no pseudo" in train_trusting(again, {})
    assert shown(again).count("no pseudo label has counted") == 1
    trusting = make(tmp_path, accelerator, watch_from_step=10)
    trusting.load_state_dict(first.state_dict() | {"trust": {}})
    assert "in the whole run no pseudo" in train_trusting(trusting, {})


def test_a_run_without_pseudo_labels_has_nothing_to_trust(tmp_path, accelerator):
    with make(tmp_path, accelerator) as report:
        for step in range(1, 41):
            report.step(step, terms(step), 0.0, samples=8)
    assert "no pseudo label" not in shown(report)


def watch(values: list[float], **limits: float) -> list[int]:
    collapse = CollapseWatch(**{"share": 0.5, "reports": 3, **limits})
    return [index for index, value in enumerate(values) if collapse.update(value)]


def test_collapse_is_called_once_an_episode():
    assert watch([0.4] * 5 + [0.05] * 20) == [9]
    assert len(watch([0.4] * 5 + [0.05] * 20 + [0.5] * 10 + [0.05] * 20)) == 2


def test_what_is_no_collapse():
    assert watch([0.4] * 5 + [0.25] * 50) == []
    assert watch([0.0] * 30) == []
    assert watch([0.4] * 5 + [0.0] + [0.4] * 20) == []
    assert watch([0.01 * i for i in range(50)]) == []


def test_collapse_law_decides():
    assert watch([0.4] * 5 + [0.25] * 50, share=0.7)
    assert watch([0.4] * 5 + [0.05] * 20, reports=6) == [12]


def test_collapse_is_reported_after_the_ramp_and_across_a_resume(tmp_path, accelerator):
    settings = CollapseSettings(reports=2)
    report = make(tmp_path, accelerator, every=1, watch_from_step=10, collapse=settings)
    with report:
        for step in range(1, 21):
            report.step(step, terms(step) | health(0.9 if step < 10 else 0.4), 0.0, samples=8)
        saved = report.state_dict()
    assert "collapsing" not in shown(report)
    resumed = make(tmp_path, accelerator, every=1, watch_from_step=10, collapse=settings)
    resumed.load_state_dict(saved)
    with resumed:
        for step in range(21, 31):
            resumed.step(step, terms(step) | health(0.01), 0.0, samples=8)
    assert shown(resumed).count("warning: teacher_peak has fallen from 0.4") == 1


@pytest.mark.parametrize(
    ("name", "sound", "odd"), [("student_mass", 0.9, 0.4), ("people_inflation", 1.2, 1.4)]
)
def test_a_term_outside_its_range_is_reported_once_an_episode_and_across_a_resume(
    tmp_path, accelerator, name, sound, odd
):
    """A student without heatmaps, and pseudo people that multiply (detector_free)."""
    settings = CollapseSettings(reports=5)
    report = make(tmp_path, accelerator, every=1, collapse=settings)
    with report:
        for step in range(1, 9):
            report.step(step, terms(step, **{name: sound if step == 4 else odd}), 0.0, samples=8)
        saved = report.state_dict()
    assert "warning" not in shown(report)  # four in a row are not five
    resumed = make(tmp_path, accelerator, every=1, collapse=settings)
    resumed.load_state_dict(saved)
    with resumed:
        for step in range(9, 20):
            resumed.step(step, terms(step, **{name: odd}), 0.0, samples=8)
    assert shown(resumed).count(f"warning: {name} is {odd} by step 9") == 1
