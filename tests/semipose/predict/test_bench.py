"""The benchmark of predicting: the network alone does a part of the work of each of the other rows."""

from pathlib import Path

import pytest
from rich.console import Console

from semipose.predict.bench import NETWORK, PICTURES, PREDICT, START_UP, PredictBenchSettings, run
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.training.bench.result import read_result

SMALL = (
    "views.size_hw=[64,48]",
    "net.backbone={name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}",
)


@pytest.mark.slow
def test_predicting_is_compared_with_its_network(tmp_path: Path) -> None:
    cfg = PredictBenchSettings(
        source=DrawnFormat(folder=tmp_path / "coco", people=8, seed=0),
        changes=SMALL,
        most_photos=5,
        rounds=1,
        output=tmp_path / "predict.json",
    )
    result = run(cfg, Console(quiet=True))
    assert read_result(cfg.output) == result
    assert [row.name for row in result.rows] == [NETWORK, PREDICT, PICTURES, START_UP]
    assert {row.base for row in result.rows} == {NETWORK}
    assert result.data["photos"] == 5
    assert result.rows[0].facts["times_network"] == 1
    assert all(row.facts["times_network"] > 1 for row in result.rows[1:])
    assert [target.what.split(",")[0] for target in result.targets] == [PREDICT, PICTURES]
