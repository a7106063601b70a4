"""Refuses options of `accelerate launch` that contradict the recipe."""

import os

import psutil

from semipose.configs.load import InputError

ACCUMULATION = "gradient_accumulation_steps"
OTHER_WAYS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")


def require_plain_launch(precision: str) -> None:
    """Refuse launcher options that would change the training against the recipe, or have no effect.

    The launcher passes its options on as environment variables named ACCELERATE_*, and so it does with the
    file that `accelerate config` writes. Accelerate would divide the loss for an accumulation that the loop
    does not do, and would compile or shard the whole method. `precision` is that of the recipe.

    Raises InputError with one sentence for the first such option.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        raise InputError(
            f"accelerate launch asks for mixed precision {asked}, but the recipe has precision={precision}: "
            "the recipe sets the precision, so leave out --mixed_precision (or its line in the file that "
            "`accelerate config` wrote) and set precision to no, bf16 or fp16 instead"
        )
    steps = os.environ.get(f"ACCELERATE_{ACCUMULATION.upper()}") or option_of_launcher(ACCUMULATION) or "1"
    if steps != "1":
        raise InputError(
            f"accelerate launch asks for {steps} gradient accumulation steps, but training does not "
            f"accumulate gradients: leave out --{ACCUMULATION}, and set labelled_batch and unlabelled_batch "
            "or --num_processes for the batch size that you want"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise InputError(
            f"accelerate launch asks for the dynamo backend {backend}, but the recipe decides whether "
            "networks are compiled: leave out --dynamo_backend, and set compile=true instead"
        )
    for way in OTHER_WAYS:
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true":
            raise InputError(
                f"accelerate launch asks for {way}, but every process holds the whole network here: "
                f"leave out --use_{way.lower()} (or its line in the file that `accelerate config` wrote)"
            )


def option_of_launcher(name: str) -> str | None:
    """The value of an option of the `accelerate launch` that started this process, from its command line.

    The launcher passes some options, such as gradient accumulation, to DeepSpeed only and otherwise drops
    them, so its command line is the only source. None if the parent is no launcher or has no such option.
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
        if word.endswith(".py"):  # here the options of the script begin
            return None
        key, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key.replace("-", "_") == name:
            return value or following
    return None
