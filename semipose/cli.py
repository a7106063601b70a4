"""The `semipose` command: a table of verbs, whose modules are imported when they are called."""

import importlib
import sys

COMMANDS = {
    "predict": ("semipose.predict.command", "keypoints of photos, folders, zips, films and cameras"),
    "export": ("semipose.export.command", "a trained network as ONNX or torch.export, checked"),
    "label": ("semipose.label.command", "what to label next; people to a labelling tool and back"),
    "teach": ("semipose.teach.command", "people of shards, labelled by a model to learn from"),
    "push": ("semipose.push", "a trained network to a model hub"),
    "doctor": ("semipose.doctor", "what this machine can do, and what is missing for more"),
    "train": ("semipose.training.run", "train a network by a protocol and a method, or go on"),
    "evaluate": ("semipose.training.evaluate", "score a run"),
    "sweep": ("semipose.training.sweep", "train a queue of runs, which continues where it stopped"),
    "compare": ("semipose.training.compare", "a table and a page of finished runs"),
    "report": ("semipose.training.reporting.page.__main__", "the page of a run: what helped, where it errs"),
    "init": ("semipose.training.first_recipe.__main__", "a first recipe for your own data, with reasons"),
    "shards": ("semipose.shards", "annotations and photos to shards, or check=only"),
}
"""Verb -> the module whose `main(argv)` it calls, and what it does."""


def main(argv: list[str] | None = None) -> None:
    """Call the verb that the first word names. Unknown verbs are an error with the nearest name, code 2."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return
    if words[0] in ("-V", "--version"):
        import semipose

        sys.stdout.write(f"semipose {semipose.__version__}\n")
        return
    if words[0] not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(words[0], COMMANDS, n=1)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: semipose has no command {words[0]!r}: {known}\n")
        raise SystemExit(2)
    sys.argv[0] = f"semipose {words[0]}"  # which usage lines show
    importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])


def usage() -> str:
    """The text of `semipose --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: semipose COMMAND [words ...]",
            "",
            *lines,
            "",
            "semipose COMMAND --help prints the settings of a command; they are written key.path=value.",
            "",
        ]
    )
