"""The model card: README.md of a model folder, as model hubs read it, with what a user must know."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from semipose.models.model_folder import ModelConfig

LIBRARY = "semipose"
TASK = "keypoint-detection"
ROLES = {"labelled": "with labels", "unlabelled": "without labels", "val": "scored"}


def model_card(
    config: ModelConfig,
    scores: Mapping[str, Any] | None,
    card: Mapping[str, Any] | None,
    *,
    name: str | None = None,
    licence: str | None = None,
    address: str = "FOLDER",
) -> str:
    """The text of the card.

    Args:
        config: of the folder.
        scores: the content of its `scores.json`: step, how people were scored, and scores by network.
        card: the content of the run's `card.json`.
        name: what to call the model; None: the method and the protocol.
        licence: the licence under which the model is given away, if that is decided.
        address: where a user finds the model.
    """
    origin = config.provenance
    name = name or f"{origin.method} on {origin.protocol}"
    header = ModelCardData(
        language=None,
        license=licence,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=["pose-estimation", origin.method],
        model_name=name if scores else None,
        eval_results=_eval_results(config, scores) if scores else None,
    )
    parts = [f"---\n{header.to_yaml()}\n---\n\n# {name}", _what_it_is(config)]
    parts += [_training(config, card)] if card else []
    parts += [_scores(scores)] if scores else []
    parts += [_licences(config, licence), _use(config, address)]
    return "\n\n".join(parts) + "\n"


def _eval_results(config: ModelConfig, scores: Mapping[str, Any]) -> list[EvalResult]:
    """One result for each score of the product, with what it depends on."""
    details = ("step", "boxes", "flip_test", "decode", "people", "photos", "val_sha256")
    args = {"protocol": config.provenance.protocol, "seed": config.provenance.seed}
    args |= {key: scores[key] for key in details if key in scores}
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=config.provenance.protocol,
            dataset_name=config.provenance.protocol,
            metric_type=metric,
            metric_value=round(100 * value, 2),
            dataset_args=args,
        )
        for metric, value in scores["scores"].get(config.network, {}).items()
    ]


def _what_it_is(config: ModelConfig) -> str:
    skeleton = config.skeleton
    if config.size_hw is not None:
        height, width = config.size_hw
        sees = (
            f"It takes the view of one {config.category_name}, {height} x {width} pixels (height x width): "
            f"the box, extended to that aspect ratio and enlarged {config.box_padding:g} times."
        )
    else:
        assert config.photo_views is not None
        sees = (
            f"It takes a whole photo whose shorter side is {config.photo_views.size} pixels, and finds every "
            f"{config.category_name} in it."
        )
    return (
        f"A network that finds {skeleton.num_keypoints} keypoints of a {config.category_name} in a photo. "
        f"{sees}\n\nKeypoints, in their order: {', '.join(skeleton.names)}.\n\nBackbone "
        f"`{config.net.backbone.name}`, head `{config.net.head.name}`."
    )


def _training(config: ModelConfig, card: Mapping[str, Any]) -> str:
    origin = config.provenance
    rows = [
        f"| {used} | {card[role]['people']:,} | `{card[role]['ids_sha256'][:12]}` |"
        for role, used in ROLES.items()
        if card.get(role)
    ]
    sources = card.get("sources", ())
    rows[1:1] = [
        f"| {_labelled_by(each)} | {each['people']:,} | `{each['ids_sha256'][:12]}` |" for each in sources
    ]
    labelled = card["labelled"]
    choice = labelled["choice"].replace(labelled["folder"], "the training set")
    return "\n".join(
        [
            "## Training\n",
            f"Protocol `{origin.protocol}`, method `{origin.method}`, {origin.step:,} steps, seed "
            f"{origin.seed}. Labelled: {choice}.\n",
            "| samples | number | hash of their ids |",
            "|---|---|---|",
            *rows,
        ]
    )


def _labelled_by(source: Mapping[str, Any]) -> str:
    """Who labelled the people of a source, and the terms of the model that did."""
    teacher = source["teacher"]
    if teacher is None:
        return "with labels of another set"
    revision = f", revision {teacher['revision']}" if teacher["revision"] else ""
    return (
        f"labelled by the model {teacher['model']}{revision} (licence: {teacher['licence'] or 'not known'})"
    )


def _scores(scores: Mapping[str, Any]) -> str:
    metrics = list(dict.fromkeys(key for row in scores["scores"].values() for key in row))
    table = [f"| network | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for network, row in scores["scores"].items():
        values = (f"{100 * row[metric]:.1f}" if metric in row else "" for metric in metrics)
        table.append(f"| `{network}` | {' | '.join(values)} |")
    where = "as whole photos" if scores["boxes"] == "none" else f"in {scores['boxes']} boxes"
    flip_test = "with the flip test" if scores["flip_test"] else "without a flip test"
    return "\n".join(
        [
            "## Scores\n",
            f"In percent, after {scores['step']:,} steps, {where}, {flip_test}, decoded by "
            f"`{scores['decode']}`.\n",
            *table,
        ]
    )


def _licences(config: ModelConfig, licence: str | None) -> str:
    origin = config.provenance
    lines = ["## Licences\n"]
    if licence:
        lines.append(f"The model: {licence}.\n")
    lines.append(f"The networks started from {origin.weights}.")
    lines += [f"\n* {name}: {its_licence}" for name, its_licence in origin.licences.items()]
    return "\n".join(lines)


def _use(config: ModelConfig, address: str) -> str:
    others = [f"`network={name!r}`" for name in config.networks if name != config.network]
    lines = [
        "## Use\n",
        f'```python\nimport semipose\n\npose = semipose.load("{address}")\npeople = pose("photo.jpg")\n```\n',
        "`people.xy` holds the keypoints of everybody in pixels of the photo, and `people.peaks` how sure "
        "they are.",
        f"`semipose predict {address} FOLDER` does the same for many photos, and `net.start_from={address}` "
        "goes on from this network with more labels or other keypoints.",
    ]
    lines += [f"\nOther networks of the run: {', '.join(others)}."] if others else []
    return "\n".join(lines)
