"""What a warning about a teacher advises can be set in the method that is warned."""

import re

import pytest

from semipose.configs.load import InputError, load
from semipose.training.methods import METHODS
from semipose.training.reporting.collapse import LIMITS, steady_teacher
from semipose.training.settings import RunSettings

ADVISED = {
    **{method.name: steady_teacher(method.options, {}) for method in METHODS if method.uses_unlabelled},
    "detector_free: limits": " ".join(limit.meaning for limit in LIMITS.values()),
}


@pytest.mark.parametrize("name", ADVISED)
def test_settings_that_are_advised_exist_and_are_no_groups(name: str) -> None:
    advised = re.findall(r"method[.\w]*\w", ADVISED[name])
    assert advised
    for setting in advised:
        with pytest.raises(InputError) as error:  # a recipe is missing, but what is there is checked
            load(RunSettings, None, [f"method.name={name.partition(':')[0]}", f"{setting}=[]"])
        (line,) = [line for line in str(error.value).splitlines() if setting in line]
        assert f"{setting}: expected a number" in line


def test_an_average_is_advised_to_a_method_that_has_none() -> None:
    (single,) = [method for method in METHODS if method.name == "single"]
    for teacher, is_advised in (("shared", True), ("previous_epoch", True), ("ema", False)):
        advice = steady_teacher(single.options, {"teacher": {"name": teacher}})
        assert advice.startswith("Use method.teacher.name=ema, a weaker weak view") == is_advised


def test_thresholds_that_a_mixture_replaces_are_not_advised() -> None:
    """`high` holds only until there are enough scores."""
    assert "thresholds" not in LIMITS["people_inflation"].meaning
