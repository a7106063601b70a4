"""A score that falls is reported once per fall, with how often the labelled samples were seen."""

import pytest

from semipose.training.reporting.collapse import fallen_score


def warnings(values: list[float]) -> list[int]:
    """The scorings, counted from 1, at which a run with these scores is warned."""
    rows = [{"step": 100 * n, "scores": {"network": {"AP": v}}} for n, v in enumerate(values, 1)]
    return [
        n
        for n in range(1, len(rows) + 1)
        if fallen_score(rows[:n], "AP", times_seen=1.0, cure="views.labelled", net={})
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2, 0.3], []),
        ([0.3, 0.28, 0.28, 0.28], []),  # within a tenth of the best
        ([0.3, 0.2], []),  # once is no fall
        ([0.3, 0.2, 0.2], [3]),
        ([0.3, 0.2, 0.2, 0.2, 0.2], [3]),  # not again while it stays low
        ([0.3, 0.2, 0.29, 0.2, 0.2], [5]),
        ([0.3, 0.2, 0.2, 0.29, 0.2, 0.2], [3, 6]),  # again after it had recovered
        ([0.3, 0.2, 0.2, 0.4, 0.3, 0.3], [3, 6]),
        ([0.0, 0.0, 0.0], []),
    ],
)
def test_a_fall_is_reported_once(values: list[float], expected: list[int]) -> None:
    assert warnings(values) == expected


def test_the_sentence_says_what_happened_and_what_to_change() -> None:
    rows = [{"step": 100 * n, "scores": {"network": {"AP": v}}} for n, v in enumerate([0.3, 0.2, 0.1], 1)]
    text = fallen_score(rows, "AP", times_seen=320.4, cure="photo_views.labelled", net={}) or ""
    assert "AP of network has fallen from 0.300 (step 100) to 0.100" in text
    assert "seen 320 times" in text
    assert "photo_views.labelled" in text
    assert "or start from trained weights" in text
    known = {"backbone": {"name": "resnet"}, "pretrained": True}
    text = fallen_score(rows, "AP", times_seen=320.4, cure="photo_views.labelled", net=known) or ""
    assert text.endswith("label more, or draw the labelled views more widely (photo_views.labelled).")


def test_a_metric_that_is_not_scored_is_no_fall() -> None:
    rows = [{"step": n, "scores": {"network": {"PCK": 0.1}}} for n in range(1, 5)]
    assert fallen_score(rows, "AP", times_seen=1.0, cure="views.labelled", net={}) is None
