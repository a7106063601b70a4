"""Two finished runs with their pages."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from semipose.configs.load import load
from semipose.training.run import run
from semipose.training.settings import RunSettings
from tests.training.conftest import EVERYTHING, TINY


@pytest.fixture(scope="session")
def runs(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs side by side, `supervised` and `everything`, each with its page."""
    folder = tmp_path_factory.mktemp("runs")
    methods = {"supervised": "method: {name: supervised}\n", "everything": EVERYTHING}
    for name, method in methods.items():
        recipe = folder / f"{name}.yaml"
        recipe.write_text(TINY + method)
        shards = (f"data.train={drawn_shards / 'train'}", f"data.val={drawn_shards / 'val'}")
        AcceleratorState._reset_state(reset_partial_state=True)
        words = (f"output={folder / name}", "evaluate_every=3", "report=true", *shards)
        run(load(RunSettings, recipe, words), resume=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder
