"""semipose push MODEL OWNER/NAME license=... [key=value ...]: a trained network to a model hub.

    semipose push runs/mine me/dancers license=apache-2.0
    semipose push runs/mine me/dancers license=cc-by-4.0 private=false pictures=true

It needs the token of the hub (`hf auth login`, or HF_TOKEN). Anybody who may see the model then uses it as
`semipose.load("hf://me/dancers")` or goes on from it with `net.start_from=hf://me/dancers`.
"""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, constants
from rich.console import Console

from semipose.configs import yaml12
from semipose.configs.console import plain_console
from semipose.configs.errors import InputError, one_line
from semipose.configs.load import exit_on_input_error, load, read_request
from semipose.configs.settings import settings
from semipose.models.files import CARD_NAME, CONFIG_NAME, README_NAME, RECIPE_NAME, SCORES_NAME, read_json
from semipose.models.hub import SCHEME, parse_address
from semipose.models.model_card import model_card
from semipose.models.model_folder import (
    model_folder,
    read_model,
    weights_name,
)

PICTURES = ("*.webp", "*.png", "*.jpg")
FOLDER_OF_THIS_MACHINE = re.compile(
    r"(?<![\w:/.~-])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s'\",;()]*[\\/])?([^\s'\",;()\\/]+)"
)


@settings
class PushSettings:
    """A trained network to a model hub."""

    license: str | None = None
    """The licence under which you give the model away, such as apache-2.0 or cc-by-nc-4.0; it must be given.
    It must fit the licences of the photos, of the labels and of the weights that training started from."""
    private: bool = True
    """Whether only you, and the people that you name on the hub, see the model."""
    pictures: bool = False
    """Add the run's pictures, which show people of your photos."""


def push(source: str, repository: str, cfg: PushSettings, console: Console) -> str:
    """Upload the model folder of `source`; returns the address of the model.

    Raises InputError without a licence, for a folder that is no model, and if the hub refuses.
    """
    name = parse_address(f"{SCHEME}{repository.removeprefix(SCHEME)}").name
    folder = model_folder(source)
    model = read_model(folder, "cpu")
    if not cfg.license:
        origins = "".join(
            f"; {what}: {licence}" for what, licence in model.config.provenance.licences.items()
        )
        raise InputError(
            "license: say under which licence you give the model away, such as license=apache-2.0; it must "
            "fit those of the photos, the labels and the first weights "
            f"({model.config.provenance.weights}{origins})"
        )
    pictures = find_pictures(Path(source)) if cfg.pictures else []
    if cfg.pictures and not pictures:
        raise InputError(f"pictures: {source} has none: leave pictures=true out")
    api = HfApi(constants.ENDPOINT)
    with TemporaryDirectory() as staged:
        stage(folder, Path(staged), name=name, licence=cfg.license, pictures=pictures)
        try:
            api.create_repo(name, private=cfg.private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=staged, commit_message="Upload a model of semipose")
        except Exception as error:  # the exception types of the client depend on its HTTP library
            raise InputError(
                f"{SCHEME}{name}: {constants.ENDPOINT} did not take the model ({one_line(error)}): check the "
                "name, the connection and the token (`hf auth login`, or HF_TOKEN)"
            ) from error
    who = "you alone" if cfg.private else "anybody"
    console.print(f"{SCHEME}{name}: uploaded for {who}, {cfg.license}", highlight=False, soft_wrap=True)
    return f"{SCHEME}{name}"


def stage(folder: Path, target: Path, *, name: str, licence: str, pictures: list[Path]) -> None:
    """Copy a model folder for the hub: its card with the licence, and no folder names of this machine.

    Raises InputError for a damaged folder.
    """
    config = read_model(folder, "cpu").config
    for network in config.networks:
        file = weights_name(config, network, product=config.network)
        shutil.copyfile(folder / file, target / file)
    shutil.copyfile(folder / CONFIG_NAME, target / CONFIG_NAME)
    scores = _stage_json(folder / SCORES_NAME, target)
    card = _stage_json(folder / CARD_NAME, target)
    if (folder / RECIPE_NAME).is_file():
        recipe = yaml12.parse((folder / RECIPE_NAME).read_text(), str(folder / RECIPE_NAME)).value
        (target / RECIPE_NAME).write_text(yaml12.emit(without_folders(recipe)))
    try:
        readme = model_card(
            config, scores, card, name=name.split("/")[-1], licence=licence, address=f"{SCHEME}{name}"
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder}: {SCORES_NAME} or {CARD_NAME} does not hold what a run writes "
            f"({type(error).__name__}: {one_line(error)}): put them back, or remove both to give the model "
            "away without them"
        ) from error
    (target / README_NAME).write_text(readme)
    if pictures:
        (target / "pictures").mkdir()
        for path in pictures:
            shutil.copyfile(path, target / "pictures" / path.name)


def find_pictures(run: Path) -> list[Path]:
    """The pictures of a run."""
    return sorted(path for pattern in PICTURES for path in (run / "pictures").glob(pattern))


def without_folders(value: Any) -> Any:
    """Plain values in which the absolute paths of this machine are their last part, and commands are gone."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith("pipe:"):
        return "pipe:COMMAND"
    return FOLDER_OF_THIS_MACHINE.sub(r"\1", value)


def _stage_json(path: Path, target: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = without_folders(read_json(path))
    (target / path.name).write_text(json.dumps(content, indent=1) + "\n")
    return content


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            PushSettings,
            description="Upload a trained network to a model hub.",
            path_name="MODEL OWNER/NAME",
            takes_many=True,
            argv=argv,
        )
        if len(request.paths) != 2:
            raise InputError(
                "command line: give MODEL, the folder of a run or a model folder, and OWNER/NAME on the hub"
            )
        source, repository = map(str, request.paths)
        push(source, repository, load(PushSettings, None, request.overrides), plain_console(soft_wrap=True))


if __name__ == "__main__":
    main()
