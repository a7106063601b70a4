"""The one exception for everything that a user can correct, and other people's errors in few words."""

import re


class InputError(ValueError):
    """Something that the user gave is wrong: one clear sentence with the file, the record and the cure.

    Several problems found together stand on one line each. The commands print it and exit with code 2.
    """


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks, in at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def why_unreadable(error: BaseException) -> str:
    """Why `torch.load(weights_only=True)`, or timm around it, could not read a file, in one line.

    Their own words advise the reader to switch that protection off.
    """
    causes = [error, *filter(None, (error.__cause__, error.__context__))]
    said = " ".join(str(cause) for cause in causes)
    if "weights_only" not in said:
        return one_line(error)
    if "TorchScript" in said:
        return "it is a TorchScript program, not a state dict"
    code = re.search(r"global[s:]*\s+(?:global\s+)?(\w+(?:\.\w+)+)", said, re.IGNORECASE)
    return f"it holds code ({code[1]}), which is not run" if code else "it holds no state dict"
