"""The files of a run and of its model folder: their names, and how JSON is read and written."""

import json
from pathlib import Path
from typing import Any

from semipose.configs.errors import InputError, one_line
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
LARGEST_JSON = 1 << 26


def read_json(path: Path, *, cure: str = "get the folder again") -> dict[str, Any]:
    """The content of a JSON file, which may be a stranger's. Raises InputError, which ends with `cure`."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: it cannot be read ({one_line(error)}): {cure}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: it cannot be read (it holds no mapping): {cure}")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
