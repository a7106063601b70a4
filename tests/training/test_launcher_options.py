"""Options of `accelerate launch` that a run does not follow are refused, not ignored."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from semipose.configs.load import InputError
from semipose.training import launcher_options
from semipose.training.launcher_options import option_of_launcher, require_plain_launch
from semipose.training.run import run
from semipose.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet", "--cpu")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`launched("--mixed_precision", "bf16")`: the environment of a script that the launcher starts so."""

    def start(*options: str) -> None:
        args, *_ = _validate_launch_command(
            launch_command_parser().parse_args(["--cpu", *options, "training/run.py"])
        )
        _, environment = prepare_simple_launcher_cmd_env(args)
        for key, value in environment.items():
            if key.startswith("ACCELERATE_"):
                monkeypatch.setenv(key, value)

    return start


def test_a_plain_launch_and_none_at_all_are_fine(launched: Callable[..., None]) -> None:
    require_plain_launch("bf16")
    launched()
    for precision in ("no", "bf16", "fp16"):
        require_plain_launch(precision)


def test_another_precision_than_the_recipes_is_refused(launched: Callable[..., None]) -> None:
    launched("--mixed_precision", "bf16")
    require_plain_launch("bf16")
    with pytest.raises(InputError, match=r"mixed precision bf16, but the recipe has precision=no: .*leave"):
        require_plain_launch("no")


def test_a_compiler_of_the_launchers_is_refused(launched: Callable[..., None]) -> None:
    launched("--dynamo_backend", "inductor")
    with pytest.raises(InputError, match=r"dynamo backend INDUCTOR.*compile=true"):
        require_plain_launch("no")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "4 gradient accumulation steps.*labelled_batch"),
        ("ACCELERATE_USE_FSDP", "true", "FSDP.*--use_fsdp"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DEEPSPEED.*--use_deepspeed"),
    ],
)
def test_what_would_change_the_step_is_refused(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=words):
        require_plain_launch("no")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["accelerate", "launch", "--gradient_accumulation_steps", "4", "training/run.py", "a.yaml"], "4"),
        (["accelerate", "launch", "--gradient-accumulation-steps=2", "training/run.py"], "2"),
        (["accelerate", "launch", "--cpu", "training/run.py", "--gradient_accumulation_steps=3"], None),
        (["accelerate", "launch", "training/run.py"], None),
        (["bash", "train.sh", "--gradient_accumulation_steps", "4"], None),
    ],
)
def test_options_that_the_launcher_drops_are_read_off_its_command_line(
    words: list[str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process:
        def parent(self) -> Any:
            return self

        def cmdline(self) -> list[str]:
            return words

    monkeypatch.setattr(launcher_options.psutil, "Process", Process)
    assert option_of_launcher("gradient_accumulation_steps") == found


@pytest.mark.slow
def test_the_launcher_itself_is_refused_though_it_drops_the_option(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from semipose.training.launcher_options import require_plain_launch\nrequire_plain_launch('no')\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    ended = subprocess.run(
        [*LAUNCH, "--gradient_accumulation_steps", "4", str(script)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "accelerate launch asks for 4 gradient accumulation steps" in ended.stderr
    assert ended.returncode != 0


def test_a_run_asks_before_it_writes_anything(
    tiny_run: Callable[..., RunSettings], launched: Callable[..., None]
) -> None:
    launched("--mixed_precision", "fp16")
    cfg = tiny_run("supervised")
    with pytest.raises(InputError, match="mixed precision fp16"):
        run(cfg, resume=False)
    assert not Path(cfg.output).exists()
