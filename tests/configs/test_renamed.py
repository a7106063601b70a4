"""A recipe of an older version is answered with the present name of a setting, in one line."""

import pytest

from semipose.configs.load import InputError, load
from semipose.training.settings import RunSettings


def test_the_old_name_of_a_setting_is_answered_with_the_new_one(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data: {train: a, val: b}\noutput: runs/old\n"
        "method:\n  name: single\n  mixup: {places: [input, backbone.layer1]}\n"
    )
    with pytest.raises(InputError) as refused:
        load(RunSettings, recipe)
    assert str(refused.value) == (
        f"{recipe}:5: method.mixup.places: this setting is now called 'layers': "
        "rename it; its values are the same"
    )
