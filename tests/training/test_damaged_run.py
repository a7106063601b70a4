"""Files of a run that a disk or a hand has damaged: a command goes on without them or says one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import dump
from semipose.training import checkpoint, compare, evaluate
from semipose.training import run as run_module
from semipose.training.settings import RunSettings

MakeRun = Callable[..., RunSettings]
CONTENTS = [b"", b"\xff\xfe\x00", b"[]", b'{"last": null, "files": 3}', b"[" * 100_000]


@pytest.fixture
def finished(tiny_run: MakeRun, tmp_path: Path) -> Path:
    """A run of two steps, both saved and scored."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_run("supervised", "steps=2", "checkpoint_every=1", "evaluate_every=1")))
    run_module.main([str(recipe)])
    return tmp_path / "run"


@pytest.fixture
def verdict(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`verdict(main, "a", "b")`: what is not one sentence, or a good end."""

    def judge(main: Callable[[list[str]], object], *words: str) -> str:
        capsys.readouterr()
        try:
            main(list(words))
        except SystemExit as left:
            said = capsys.readouterr().err.splitlines()
            errors = [line for line in said if line.startswith("error: ")]
            return "" if left.code == 2 and len(errors) == 1 and len(errors[0]) < 900 else str(said)
        except Exception as error:
            return repr(error)
        return ""

    return judge


@pytest.mark.slow
def test_damaged_files_are_one_sentence_or_are_written_again(
    finished: Path, tmp_path: Path, verdict: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "train", lambda *_: None)  # only how it begins is of interest
    newest = "checkpoints/step-00000002/checksums.json"
    odd = {}
    for name in ("scores.json", "card.json", "recipe.yaml", "metrics.jsonl", newest):
        for number, content in enumerate(CONTENTS):
            folder = shutil.copytree(finished, tmp_path / f"{Path(name).stem}-{number}")
            (folder / name).write_bytes(content)
            found = {"compare": verdict(compare.main, str(folder))}
            if name in ("scores.json", "recipe.yaml", newest):
                found["evaluate"] = verdict(evaluate.main, str(folder), "checkpoint=best")
            found["resume"] = verdict(run_module.main, "--resume", str(folder), "steps=3")
            odd |= {(name, number, what): said for what, said in found.items() if said}
            if name == newest:
                assert checkpoint.latest(folder, warn=lambda _: None).name == "step-00000001"
            if name == "scores.json":  # a card is not: it alone says what was changed on the way
                assert json.loads((folder / name).read_text()), "it was not written again"
    assert not odd, "\n".join(map(str, odd.items()))


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the state in a file of a checkpoint, and its checksum."""
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    sums = json.loads((path.parent / "checksums.json").read_text())
    sums["files"][path.name] = {
        "bytes": path.stat().st_size,
        "sha256": checkpoint.file_sha256(path),
    }
    (path.parent / "checksums.json").write_text(json.dumps(sums))


def flip_a_byte(state: dict[str, Any]) -> None:
    place = bytearray(state["labelled"]["dali"])
    place[len(place) // 2] ^= 0xFF
    state["labelled"]["dali"] = bytes(place)


EDITS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no method": ("shared.pt", lambda state: state.pop("method")),
    "method is a list": ("shared.pt", lambda state: state.update(method=[])),
    "no optimiser": ("shared.pt", lambda state: state.pop("optimizer")),
    "optimiser is text": ("shared.pt", lambda state: state.update(optimizer="x")),
    "history is no JSON": ("shared.pt", lambda state: state.update(history="[")),
    "no report": ("shared.pt", lambda state: state.update(report={})),
    "no random states": ("rank-0.pt", lambda state: state.pop("rng")),
    "no place in the data": ("rank-0.pt", lambda state: state["labelled"].pop("dali")),
    "the place is nothing": ("rank-0.pt", lambda state: state["labelled"].update(dali=b"")),
    "the place is damaged": ("rank-0.pt", flip_a_byte),
}


@pytest.mark.slow
def test_checkpoints_that_hold_something_else_are_one_sentence(
    finished: Path, tmp_path: Path, verdict: Callable[..., str]
) -> None:
    odd = {}
    for what, (name, edit) in EDITS.items():
        folder = shutil.copytree(finished, tmp_path / what.replace(" ", "-"))
        change(folder / "checkpoints" / "step-00000002" / name, edit)
        said = {"resume": verdict(run_module.main, "--resume", str(folder), "steps=3")}
        if name == "shared.pt":
            said["evaluate"] = verdict(evaluate.main, str(folder))
        odd |= {(what, command): text for command, text in said.items() if text}
    assert not odd, "\n".join(map(str, odd.items()))


def test_numbers_that_are_not_finite_are_neither_scored_nor_saved(
    finished: Path, tmp_path: Path, tiny_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """A running mean of NaN, which no loss of a training step shows."""

    def spoil(state: dict[str, Any]) -> None:
        name = next(name for name in state["method"] if name.endswith("running_mean"))
        state["method"][name][0] = float("nan")

    change(finished / "checkpoints" / "step-00000002" / "shared.pt", spoil)
    for main, words in (
        (evaluate.main, [str(finished)]),
        (run_module.main, ["--resume", str(finished), "steps=3"]),
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "running_mean" in said
        assert "not finite" in said
    assert not (finished / "checkpoints" / "step-00000003").exists()
