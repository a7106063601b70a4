"""Whole files or none: what a run writes beside its checkpoints."""

import json
from pathlib import Path
from typing import Any

from sharding.files import write_atomic

CARD_NAME = "card.json"
SCORES_NAME = "scores.json"
METRICS_NAME = "metrics.jsonl"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, aside first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
