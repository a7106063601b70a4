"""Shows progress: a live bar on a terminal, and a line of text per report elsewhere."""

from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

# Term -> (its name in a progress line, its format); other terms keep their own name.
LABELS: dict[str, tuple[str, str]] = {
    "loss": ("loss", "{:.3g}"),
    "loss_supervised": ("sup", "{:.3g}"),
    "loss_unlabelled": ("unl", "{:.3g}"),
    "loss_mixed": ("mix", "{:.3g}"),
    "masks": ("masks", "{:.1f}"),
    "hard_share": ("hard", "{:.0%}"),
    "alpha": ("alpha", "{:.2f}"),
    "teacher_peak": ("peak", "{:.2f}"),
    "teacher_cells": ("cells", "{:.2%}"),
    "lr": ("lr", "{:.2g}"),
}


class Display:
    """Shows one run of `total` steps on `console`. Every method is cheap and reads nothing from a device."""

    def __init__(self, console: Console, *, title: str, total: int) -> None:
        self.console = console
        self.title = title
        self.total = total
        self._live: Live | None = None
        self._terms = Text()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._bar = Progress(*columns, console=console, expand=True)
        self._task = self._bar.add_task(title, total=total, pace="")

    def start(self, done: int) -> None:
        """Show the bar at `done` steps if the console is a terminal."""
        self._bar.update(self._task, completed=done)
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=lambda: Group(self._bar, self._terms),
                console=self.console,
                refresh_per_second=4,
            )
            self._live.start()

    def stop(self) -> None:
        """Stop updating; the last state stays visible."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step)

    def activity(self, text: str | None) -> None:
        """Show what the loop is waiting for; None: nothing."""
        self._bar.update(self._task, description=f"{self.title}: {text}" if text else self.title)

    def report(self, step: int, means: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Show the terms under the bar, or print them as a line of text."""
        left = _clock_text((self.total - step) * speed["seconds_per_step"])
        pace = f"{speed['samples_per_s']:.0f} samples/s  wait {speed['data_wait_share']:.0%}  ETA {left}"
        terms = "  ".join(_term_text(name, value) for name, value in means.items())
        if self._live is not None:
            self._bar.update(self._task, pace=pace)
            self._terms = Text(terms)
        else:
            self.line(f"{self.title} {step}/{self.total}  {terms}  {pace}")

    def line(self, text: str) -> None:
        """Print text, above the bar if there is one."""
        self.console.print(Text(text), soft_wrap=self._live is None, highlight=False)


def _term_text(name: str, value: float) -> str:
    label, form = LABELS.get(name, (name, "{:.3g}"))
    return f"{label} {form.format(value)}"


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
