"""semipose label next | out | in: which photos to label, people to a labelling tool, and labels back.

semipose label next runs/mine photos/ n=50
semipose label out label/next format=cvat
semipose label in export.zip sent=label/cvat/sent.json into=my.json images=photos
"""

import sys
from pathlib import Path

from rich.console import Console

from semipose.configs.console import plain_console
from semipose.configs.disk import named_disk_errors
from semipose.configs.errors import InputError
from semipose.configs.load import exit_on_input_error, load, read_request
from semipose.label.settings import InSettings, NextSettings, OutSettings
from semipose.sharding.annotations.photos import Photos, open_photos
from semipose.sharding.store.files import names_in, refuse_strangers

PREDICTED = "predictions"
"""Where `label next` keeps what it predicted, in its output folder."""
USAGE = """usage: semipose label next | out | in [words ...]

  next  MODEL SOURCE... | PREDICTIONS   choose the photos that are most worth labelling
  out   PREDICTIONS | FILE format=...   write people for CVAT, Label Studio, YOLO-pose or as COCO
  in    EXPORT into=my.json             read what the tool exported, and merge it into your COCO file

semipose label next --help prints the settings of `next`, and so on.
"""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    words = sys.argv[1:] if argv is None else list(argv)
    verbs = {"next": _next, "out": _out, "in": _in}
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    with exit_on_input_error():
        if words[0] not in verbs:
            raise InputError(f"semipose label has no command {words[0]!r}: known are {', '.join(verbs)}")
        sys.argv[0] = f"semipose label {words[0]}"  # which usage lines show
        verbs[words[0]](words[1:], plain_console(stderr=True))


def _next(argv: list[str], console: Console) -> None:
    request = read_request(
        NextSettings,
        description="Choose the photos that are most worth labelling: by a model (MODEL SOURCE..., as in "
        "`semipose predict`), or from the folder of a finished prediction.",
        path_name="MODEL SOURCE... | PREDICTIONS",
        takes_many=True,
        argv=argv,
    )
    if not request.words:
        raise InputError("command line: give a model and photos, or the folder of a finished prediction")
    cfg = load(NextSettings, None, request.overrides)
    # After the settings, because a model takes torch seconds to load.
    from semipose.label.choose import LIST, choose, read_predictions, write_chosen

    if not (cfg.output / LIST).is_file():
        refuse_strangers(cfg.output, [name for name in names_in(cfg.output) if name != PREDICTED])
    photos: Photos | None = None
    source = Path(request.words[0])
    if len(request.words) > 1:
        source, photos = _predict(request.words[0], request.words[1:], cfg, console)
    elif cfg.images is not None:
        photos = open_photos(cfg.images)
    labels = read_predictions(source)
    if photos is None:
        console.print(
            "note: without images=FOLDER there are no pictures and no copies of photos", highlight=False
        )
    with named_disk_errors(cfg.output):
        chosen = choose(labels, cfg, console)
        written = write_chosen(chosen, labels, photos, cfg)
    sequences = len({each.sequence for each in chosen})
    console.print(
        f"{cfg.output}: {len(chosen):,} photos of {sequences:,} sequences ({cfg.strategy}), mean peak "
        f"{min(each.mean_peak for each in chosen):.2f} to {max(each.mean_peak for each in chosen):.2f}; see "
        f"{', '.join(path.name for path in written)}",
        highlight=False,
        soft_wrap=True,
    )


def _predict(
    model: str, sources: tuple[str, ...], cfg: NextSettings, console: Console
) -> tuple[Path, Photos | None]:
    """Predict the sources into OUTPUT/predictions; returns that folder and the photos."""
    from dataclasses import replace

    from semipose.predict.command import predict_sources
    from semipose.predict.sources import find_work

    work = find_work(sources, images=cfg.predict.images or cfg.images)
    if work.films:
        raise InputError(f"{work.films[0].where}: frames of films are no photos: save them as photos first")
    locations = {item.photos.location for item in work.photos}
    if len(locations) > 1:
        raise InputError("command line: give photos of one folder, zip or address")
    predictions = cfg.output / PREDICTED
    images = cfg.predict.images or cfg.images
    predict_sources(model, sources, replace(cfg.predict, output=str(predictions), images=images), console)
    return predictions, work.photos[0].photos


def _out(argv: list[str], console: Console) -> None:
    request = read_request(
        OutSettings,
        description="Write people for a labelling tool: from the folder of a prediction or of `label next`, "
        "or from a COCO file.",
        path_name="PREDICTIONS",
        argv=argv,
    )
    if request.recipe is None:
        raise InputError("command line: give the folder of a prediction or of `label next`, or a COCO file")
    from semipose.label.out import send

    cfg = load(OutSettings, None, request.overrides)
    with named_disk_errors(cfg.output or Path("label")):
        send(request.recipe, cfg, console)


def _in(argv: list[str], console: Console) -> None:
    request = read_request(
        InSettings,
        description="Read what a labelling tool exported, print what changed, and merge it into your file.",
        path_name="EXPORT",
        argv=argv,
    )
    if request.recipe is None:
        raise InputError("command line: give the file or folder that the labelling tool exported")
    from semipose.label.merge import receive

    cfg = load(InSettings, None, request.overrides)
    with named_disk_errors(cfg.into):
        receive(request.recipe, cfg, console)


if __name__ == "__main__":
    main()
