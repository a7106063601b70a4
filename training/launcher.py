"""What the options of `accelerate launch` may ask of a run; the recipe decides everything that they leave."""

import os

import psutil

from configs.load import InputError

ACCUMULATION = "gradient_accumulation_steps"
OTHER_WAYS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")


def require_plain_launch(precision: str) -> None:
    """Refuse launcher options that would change the training behind the recipe's back, or do nothing.

    The launcher hands its options over as environment variables named ACCELERATE_*; values of the file that
    `accelerate config` writes arrive in the same way. Accelerate would divide the loss for an accumulation
    that the loop does not do, and compile or shard the whole method. `precision` is that of the recipe.

    Raises InputError with one sentence for the first such option.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        raise InputError(
            f"accelerate launch asks for mixed precision {asked}, but the recipe has precision={precision}: "
            "precision belongs to the recipe here, so leave out --mixed_precision (or the line of the file "
            "that `accelerate config` wrote) and give precision=no, bf16 or fp16 to training/run.py"
        )
    steps = os.environ.get(f"ACCELERATE_{ACCUMULATION.upper()}") or option_of_launcher(ACCUMULATION) or "1"
    if steps != "1":
        raise InputError(
            f"accelerate launch asks for {steps} gradient accumulation steps, but gradients are not "
            f"accumulated here: leave out --{ACCUMULATION}, and set labelled_batch and unlabelled_batch or "
            "--num_processes for the batch that you want"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise InputError(
            f"accelerate launch asks for the dynamo backend {backend}, but whether networks are compiled "
            "belongs to the recipe here: leave out --dynamo_backend, and give compile=true to training/run.py"
        )
    for way in OTHER_WAYS:
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true":
            raise InputError(
                f"accelerate launch asks for {way}, but several processes each hold the whole network here: "
                f"leave out --use_{way.lower()} (or the line of the file that `accelerate config` wrote)"
            )


def option_of_launcher(name: str) -> str | None:
    """The value of an option that `accelerate launch` was started with, read off its own command line.

    The launcher hands on some options, such as that of gradient accumulation, to DeepSpeed alone and drops
    them otherwise; then its command line is the only place that still has them. None where the parent is no
    launcher, or has no such option.
    """
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:
        return None
    if "launch" not in words:
        return None
    own = words[words.index("launch") + 1 :]
    for word, following in zip(own, [*own[1:], ""], strict=True):
        if word.endswith(".py"):  # the options of the script begin
            return None
        key, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key.replace("-", "_") == name:
            return value or following
    return None
