"""The tree of settings in `--help`."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.load import help_text, load
from semipose.configs.settings import settings


@settings
class Policy:
    scale_sd: Annotated[float, Field(ge=0)] = 0.25
    """Standard deviation of the
    box scale."""


@settings
class Fixed:
    name: Literal["fixed"] = "fixed"
    count: int = 5
    """Rectangles a person."""


@settings
class Adaptive:
    name: Literal["adaptive"] = "adaptive"
    gamma: float = 0.55
    policy: Policy = Policy(scale_sd=0.75)


@settings
class Mixup:
    name: Literal["image", "feature"] = "image"
    beta: float = 0.75


@settings
class Plain:
    name: Literal["none"] = "none"


@settings
class Step:
    mixup: Annotated[Mixup | Plain, Field(discriminator="name")] = Mixup(name="feature")
    limit: Annotated[int | None, Field(ge=1)] = None


@settings
class Run:
    output: str
    """Where to write."""
    strong: Policy = Policy(scale_sd=0.5)
    """The strong view."""
    masking: Annotated[Fixed | Adaptive, Field(discriminator="name")] = field(default_factory=Adaptive)
    maybe: Annotated[Fixed | Adaptive, Field(discriminator="name")] | None = None
    log: str | None = None
    several: tuple[Policy, ...] = ()
    by_name: dict[str, Policy] = field(default_factory=dict)


@settings
class Outer:
    run: Run
    """Everything."""


def test_defaults_meanings_and_every_plugin_are_shown():
    assert help_text(Run).splitlines() == [
        "settings and their defaults",
        "├── output: text (must be given)  Where to write.",
        "├── strong  The strong view.",
        "│   └── scale_sd: a number >= 0 = 0.5  Standard deviation of the box scale.",
        "├── masking: a mapping with a `name` (fixed, adaptive) = adaptive",
        "│   ├── name: fixed",
        "│   │   └── count: a whole number = 5  Rectangles a person.",
        "│   └── name: adaptive",
        "│       ├── gamma: a number = 0.55",
        "│       └── policy",
        "│           └── scale_sd: a number >= 0 = 0.75  Standard deviation of the box scale.",
        "├── maybe: a mapping with a `name` (fixed, adaptive) or null = null",
        "│   ├── name: fixed",
        "│   │   └── count: a whole number = 5  Rectangles a person.",
        "│   └── name: adaptive",
        "│       ├── gamma: a number = 0.55",
        "│       └── policy",
        "│           └── scale_sd: a number >= 0 = 0.75  Standard deviation of the box scale.",
        "├── log: text or null = null",
        "├── several: a list (each a mapping of settings) = []",
        "│   └── scale_sd: a number >= 0 = 0.25  Standard deviation of the box scale.",
        "└── by_name: a mapping of text to a mapping of settings = {}",
        "    └── scale_sd: a number >= 0 = 0.25  Standard deviation of the box scale.",
    ]


def test_settings_that_must_be_given_show_what_is_inside():
    lines = help_text(Outer).splitlines()
    assert lines[1] == "└── run: a mapping of settings (must be given)  Everything."
    assert lines[2] == "    ├── output: text (must be given)  Where to write."
    assert "    │   └── scale_sd: a number >= 0 = 0.5  Standard deviation of the box scale." in lines


def test_a_recipe_shows_its_values_and_only_its_plugins():
    run = load(
        Run, None, ["output=x", "strong.scale_sd=0.1", "masking.name=fixed", "several=[{scale_sd: 1}]"]
    )
    assert help_text(Run, run).splitlines() == [
        "settings (* differs from the default)",
        '├── output: text = "x" *  Where to write.',
        "├── strong  The strong view.",
        "│   └── scale_sd: a number >= 0 = 0.1 *  Standard deviation of the box scale.",
        "├── masking: a mapping with a `name` (fixed, adaptive) = fixed *",
        "│   └── name: fixed",
        "│       └── count: a whole number = 5  Rectangles a person.",
        "├── maybe: a mapping with a `name` (fixed, adaptive) or null = null",
        "├── log: text or null = null",
        '├── several: a list (each a mapping of settings) = [{"scale_sd": 1.0}] *',
        "└── by_name: a mapping of text to a mapping of settings = {}",
    ]


def test_a_class_with_several_names_is_shown_once():
    assert help_text(Step).splitlines() == [
        "settings and their defaults",
        "├── mixup: a mapping with a `name` (image, feature, none) = feature",
        "│   ├── name: image | feature",
        "│   │   └── beta: a number = 0.75",
        "│   └── name: none",
        "└── limit: a whole number >= 1 or null = null",
    ]
    assert "= image *" in help_text(Step, load(Step, None, ["mixup.name=image"]))


def test_markup_in_a_meaning_is_text():
    @settings
    class Odd:
        size: int = 3
        """A size [bold] of [0, 1]."""

    assert "A size [bold] of [0, 1]." in help_text(Odd)


def test_what_a_class_inherits_keeps_its_meaning():
    @settings
    class Steep(Fixed):
        gamma: float = 2.0

    @settings
    class Steeper(Steep):
        count: int = 6

    assert "├── count: a whole number = 5  Rectangles a person." in help_text(Steep)
    assert "├── count: a whole number = 6  Rectangles a person." in help_text(Steeper)
