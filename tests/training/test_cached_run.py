"""Runs whose people are decoded once: resumed bit for bit, named on the card, refused if they do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import InputError
from semipose.pipelines.cache import memory_check
from semipose.training.run import run
from semipose.training.settings import RunSettings

MakeRun = Callable[..., RunSettings]


@pytest.mark.slow
@pytest.mark.parametrize("home", ["host", "device"])
def test_resumed_cached_run_equals_uninterrupted(
    home: str, tiny_run: MakeRun, metrics: Callable[[Path], dict[int, dict[str, Any]]], tmp_path: Path
) -> None:
    whole = run(tiny_run("everything", f"data.cache={home}"), resume=False)
    expected, folder = metrics(whole.folder), tmp_path / "again"
    shutil.copytree(whole.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000006")

    again = run(tiny_run("everything", f"data.cache={home}", f"output={folder}"), resume=True)

    assert sorted(expected) == [1, 2, 3, 4, 5, 6]
    assert metrics(folder) == expected
    states = zip(whole.method.state_dict().items(), again.method.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)
    assert whole.unlabelled is not None
    card = json.loads((folder / "card.json").read_text())
    kept = whole.labelled.cached_bytes + whole.unlabelled.cached_bytes
    assert card["cache"] == {"home": home, "bytes": kept}
    assert kept > 1e5


def test_a_run_goes_on_as_it_began(tiny_run: MakeRun) -> None:
    run(tiny_run("supervised", "steps=1"), resume=False)
    with pytest.raises(InputError, match=r"data\.cache was none and is host: this cannot change"):
        run(tiny_run("supervised", "steps=2", "data.cache=host"), resume=True)


def test_a_cache_that_does_not_fit_stops_the_run_at_its_start(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "host_memory", lambda: (10**5, 10**6))
    cfg = tiny_run("supervised", "data.cache=host")
    with pytest.raises(InputError, match=r"the 10 labelled people of .* set data\.cache to none"):
        run(cfg, resume=False)
    assert not (Path(cfg.output) / "checkpoints").exists()
