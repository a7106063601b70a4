"""The files of a run and of its model folder: their names, and how JSON is read and written."""

import json
from pathlib import Path
from typing import Any

from semipose.configs.errors import InputError
from semipose.sharding.store.files import write_atomic

CARD_NAME = "card.json"
"""What was trained on what, and where."""
CONFIG_NAME = "config.json"
"""What it takes to use the networks of a model folder."""
METRICS_NAME = "metrics.jsonl"
PAGE_NAME = "report.html"
PEOPLE_NAME = "people.npz"
README_NAME = "README.md"
"""The model card, which hubs of models show."""
RECIPE_NAME = "recipe.yaml"
SCORES_NAME = "scores.json"
TRACKERS_NAME = "trackers.json"
"""The ids of a run at the services, by which a resumed run continues there."""


def read_json(path: Path, *, cure: str) -> dict[str, Any]:
    """The content of a JSON file of a run. Raises InputError, which ends with `cure`, if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}): {cure}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: cannot be read (it holds no mapping): {cure}")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
