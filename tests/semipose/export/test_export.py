"""An exported network answers as the original, without the project; a file that does not is refused."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from semipose.configs.load import InputError
from semipose.export.command import ExportSettings, _refuse_difference, export, main
from semipose.export.crops import read_views
from semipose.export.graph import PoseGraph, facts_of
from semipose.export.parity import compare
from semipose.export.quantize import in_integers
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.model_folder import Model, NetworkConfig
from semipose.models.net import NetSettings, build_net
from semipose.pipelines.views import MEAN_RGB, STD_RGB
from semipose.predict.views import Cut, ViewMaker
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.skeleton import LSP_14
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.person import decode_pose
from tests.semipose.models import image_model, make_model, needs_onnx, person_model, write_folder

QUIET = Console(quiet=True)
FAMILIES = ["dekr", "ae", "cid"]


def views_of(count: int, size_hw: tuple[int, int] = (64, 48), seed: int = 0) -> np.ndarray:
    """Smooth coloured pictures (count, H, W, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 5, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(row).resize(size_hw[::-1])) for row in small])


def with_decoding(model: Model, method: Any) -> Model:
    return replace(model, codec=HeatmapCodec(HeatmapSettings(decode=method), model.config.skeleton))


def run_without_torch(script: Path, *words: str) -> list[str]:
    """The lines that a script prints where the project and what it is built on cannot be imported."""
    code = (
        "import sys, runpy; sys.modules |= dict.fromkeys(['torch', 'semipose', 'timm', 'cv2'])\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `semipose export` writes of a model with random weights."""
    folder = tmp_path_factory.mktemp("export")
    model = write_folder(folder / "mine", person_model(14, LSP_14))
    return export(str(model), ExportSettings(output=str(folder / "out"), precision="int8", views=8), QUIET)


@pytest.mark.parametrize("names", [["photo.jpg"], ["example.py"], ["pose.json"]])
def test_an_export_is_never_written_among_other_files(names: list[str], tmp_path: Path) -> None:
    model = write_folder(tmp_path / "model", person_model(14, LSP_14))
    (tmp_path / "mine").mkdir()
    for name in names:
        (tmp_path / "mine" / name).write_text("[]")
    cfg = ExportSettings(output=str(tmp_path / "mine"), format="pt2", check=False)
    with pytest.raises(InputError, match=rf"mine: the folder holds something else \({names[0]}\)"):
        export(str(model), cfg, QUIET)
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["[]"]


@needs_onnx
def test_an_export_is_written_again_in_its_own_folder(
    onnx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(onnx_folder, tmp_path / "out")
    (folder / "photo.jpg").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("semipose.export.command._write", write_nothing_but_facts)
    assert export(str(onnx_folder.parent / "mine"), ExportSettings(output="."), QUIET) == Path()
    assert (folder / "pose.json").read_text() == "{}"
    assert (folder / "photo.jpg").exists()


def write_nothing_but_facts(*words: Any) -> dict[str, Any]:
    (words[-1] / "pose.json").write_text("{}")
    return {}


def test_the_graph_takes_the_levels_of_a_photo_and_answers_as_the_network() -> None:
    model = person_model()
    views = views_of(3)
    levels = torch.from_numpy(views).permute(0, 3, 1, 2) / 255
    images = (levels - torch.tensor(MEAN_RGB).view(3, 1, 1)) / torch.tensor(STD_RGB).view(3, 1, 1)
    with torch.no_grad():
        points, peaks = model.codec.decode(model.network(images))
        ours = PoseGraph(model).eval()(torch.from_numpy(views))
    torch.testing.assert_close(ours[0], points)
    torch.testing.assert_close(ours[1], peaks, rtol=1e-4, atol=1e-4)


def test_the_flip_test_in_the_graph_is_the_mean_with_the_mirror_image() -> None:
    model = person_model()
    graph = PoseGraph(model, flip_test=True).eval()
    views = torch.from_numpy(views_of(2))
    images = (views.permute(0, 3, 1, 2).float() - graph.mean) / graph.deviation
    with torch.no_grad():
        flipped = torch.cat((images.flip(-1)[..., 3:], *[images[..., :1]] * 3), dim=-1)  # cell on cell
        mirrored = model.network(flipped).flip(-1)[:, list(model.config.skeleton.flip_order)]
        expected = (model.network(images) + mirrored) / 2
    torch.testing.assert_close(graph.maps(views), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["person", *FAMILIES])
def test_torch_export_answers_as_the_network_for_any_number_of_views(
    name: str, pt2_folder: Callable[[str], Path]
) -> None:
    folder, model = pt2_folder(name), make_model(name)
    row = json.loads((folder / "parity.json").read_text())["files"]["pose.pt2"]
    assert row["keypoints"] > 0
    assert row["max_px"] <= 0.05
    module = torch.export.load(folder / "pose.pt2").module()
    hw = model.config.size_hw or (64, 64)
    for count in (1, 3):
        views = torch.from_numpy(views_of(count, hw))
        for ours, theirs in zip(module(views), PoseGraph(model).eval()(views), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_onnx
@pytest.mark.slow
def test_what_an_export_writes_says_what_its_answers_mean(onnx_folder: Path) -> None:
    import onnx
    import onnxruntime

    names = {"pose.onnx", "pose-int8.onnx", "pose.json", "example.py", "parity.json"}
    assert {path.name for path in onnx_folder.iterdir()} == names
    pose = json.loads((onnx_folder / "pose.json").read_text())
    assert pose["keypoints"] == list(LSP_14.names)
    assert (pose["size_hw"], pose["box_padding"], pose["category"]["name"]) == ([64, 48], 1.25, "dancer")
    properties = {each.key: each.value for each in onnx.load(onnx_folder / "pose.onnx").metadata_props}
    assert json.loads(properties["semipose"]) == pose
    session = onnxruntime.InferenceSession(onnx_folder / "pose.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        points, peaks = session.run(["points_xy", "peaks"], {"image": views_of(count)})
        assert (points.shape, peaks.shape) == ((count, 14, 2), (count, 14))
    parity = json.loads((onnx_folder / "parity.json").read_text())
    assert parity["files"]["pose.onnx"]["max_px"] <= 0.05
    assert parity["files"]["pose.onnx"]["keypoints"] > 0
    assert (onnx_folder / "pose-int8.onnx").stat().st_size < (onnx_folder / "pose.onnx").stat().st_size


@needs_onnx
@pytest.mark.slow
def test_integers_begin_after_the_convolutions_that_see_the_photo(onnx_folder: Path) -> None:
    import onnx

    graph = onnx.load(onnx_folder / "pose-int8.onnx").graph
    maker = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_integers = [maker.get(node.input[0]) == "DequantizeLinear" for node in convolutions]
    assert in_integers == [False, False] + [True] * (len(convolutions) - 2)
    assert len(convolutions) > 4


@needs_onnx
@pytest.mark.slow
def test_onnxruntime_computes_all_later_convolutions_in_integers(tmp_path: Path) -> None:
    """It leaves those in float32 that it cannot fuse, which made INT8 slower than float32."""
    import onnx
    import onnxruntime

    backbone = TimmSettings(model="tf_efficientnet_lite0")
    net = NetSettings(backbone=backbone, head=PyramidSettings(width=16))
    config = replace(person_model(14, LSP_14).config, networks={"network": NetworkConfig(net=net)})
    model = Model(build_net(net, 14).eval(), config.build_codec(), config, None, "a test")
    cfg = ExportSettings(output=str(tmp_path / "out"), precision="int8", views=8, check=False)
    folder = export(str(write_folder(tmp_path / "mine", model)), cfg, QUIET)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(folder / "pose-int8.onnx", options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (ops["Conv"], ops["QLinearConv"]) == (2, 53)


def test_integers_are_for_later_convolutions_and_what_clips_them() -> None:
    """Of two parallel stems, as with the flip test, both stay in float32; so does all decoding."""
    rows = [
        ("Conv", ["image", "w"], "a"),
        ("Conv", ["mirrored", "w"], "b"),
        ("Relu", ["a"], "c"),
        ("Conv", ["c", "w"], "d"),
        ("Conv", ["b", "w"], "e"),
        ("Conv", ["d", "w"], "f"),
        ("Relu", ["f"], "g"),
        ("Add", ["g", "d"], "h"),
        ("Relu", ["h"], "i"),
        ("Conv", ["i", "w"], "j"),
        ("Sigmoid", ["j"], "k"),
        ("Clip", ["k"], "l"),
    ]
    nodes = [SimpleNamespace(op_type=op, name=to, input=read, output=[to]) for op, read, to in rows]
    assert in_integers(nodes) == ["f", "g", "j"]


@needs_onnx
@pytest.mark.slow
def test_the_example_runs_without_torch_and_finds_what_semipose_finds(
    onnx_folder: Path, tmp_path: Path
) -> None:
    """In pixels of the photo; the box reaches beyond it."""
    photo = tmp_path / "photo.png"
    Image.fromarray(views_of(1, (96, 80), seed=3)[0]).save(photo)
    box = (30.0, 20.0, 40.0, 90.0)
    lines = run_without_torch(onnx_folder / "example.py", str(photo), *map(str, box))
    rows = [line.split() for line in lines]
    assert [row[0] for row in rows] == list(LSP_14.names)
    from semipose.predict.predictor import Predictor

    people = Predictor(person_model(14, LSP_14))(photo, boxes=[list(box)])
    theirs = np.array([[float(row[1]), float(row[2])] for row in rows])
    # Pillow and OpenCV do not interpolate alike: a peak may fall into the next cell.
    assert np.median(np.linalg.norm(theirs - people.xy[0], axis=-1)) < 1

    turned, exif = tmp_path / "turned.png", Image.Exif()
    exif[0x0112] = 6  # as a phone stores an upright photo
    Image.open(photo).rotate(90, expand=True).save(turned, exif=exif)
    assert run_without_torch(onnx_folder / "example.py", str(turned), *map(str, box)) == lines


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_people_of_whole_photos_are_decoded_inside(tmp_path: Path, family: str, flip_test: bool) -> None:
    """Those of `ae` up to their candidates and tags; `example.py` puts them together as the codec does."""
    model = image_model(family)
    source = write_folder(tmp_path / "mine", model)
    cfg = ExportSettings(output=str(tmp_path / "out"), views=8, flip_test=flip_test)
    folder = export(str(source), cfg, QUIET)
    row = json.loads((folder / "parity.json").read_text())["files"]["pose.onnx"]
    assert row["keypoints"] > 0
    assert row["max_px"] <= 0.05
    names = {"points_xy", "peaks", "tags" if family == "ae" else "scores"}
    assert set(json.loads((folder / "pose.json").read_text())["outputs"]) == names

    view = views_of(1, (64, 64), seed=1)
    photo = tmp_path / "photo.png"
    Image.fromarray(view[0]).save(photo)
    with torch.no_grad():
        maps = PoseGraph(model, flip_test=flip_test).eval().maps(torch.from_numpy(view))
    people = model.codec.decode(maps)  # type: ignore[union-attr]
    is_shown = people.score[0] >= 1e-4
    assert is_shown.any()
    lines = run_without_torch(folder / "example.py", str(photo), "1e-4")
    theirs = np.array([line.split()[3:] for line in lines], float)
    ours = torch.cat((people.points_xy, people.confidence[..., None]), dim=-1)[0, is_shown].flatten(0, 1)
    ours = ours[ours[:, 2] > 0]
    np.testing.assert_allclose(theirs[:, :2], ours[:, :2], atol=0.051)  # it prints one decimal
    np.testing.assert_allclose(theirs[:, 2], ours[:, 2], atol=0.0051)

    Image.fromarray(view[0, :16]).save(photo)  # it leaves most of its view empty, where nobody is to be found
    rows = [line.split() for line in run_without_torch(folder / "example.py", str(photo), "1e-6")]
    people_of_wide = {row[0] for row in rows}
    assert people_of_wide or family == "cid"
    for person in people_of_wide:
        assert np.mean([float(row[4]) for row in rows if row[0] == person]) < 18


@needs_onnx
@pytest.mark.slow
def test_products_of_integers_do_not_overflow_on_older_processors(onnx_folder: Path) -> None:
    """Without VNNI two products of a weight and an activation of 8 bits (0 to 255) are added in 16 bits."""
    import onnx

    graph = onnx.load(onnx_folder / "pose-int8.onnx").graph
    weights = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
    weights = [each for each in weights if each.dtype == np.int8 and each.ndim == 4]
    assert len(weights) > 2
    for each in weights:
        assert 2 * 255 * int(np.abs(each.astype(int)).max()) <= np.iinfo(np.int16).max


def test_libraries_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    source = write_folder(tmp_path / "mine", person_model())
    with pytest.raises(InputError, match=r"onnx is not installed: `pip install 'semipose\[export\]'`"):
        export(str(source), ExportSettings(output=str(tmp_path / "out")), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["shift", "dark"])
@pytest.mark.parametrize("away_px", [0.0, 0.04, 0.06])
def test_a_keypoint_that_is_too_far_away_fails_the_export(method: str, away_px: float) -> None:
    graph = PoseGraph(with_decoding(person_model(), method)).eval()

    def run(views: np.ndarray) -> list[np.ndarray]:
        points, peaks = (answer.numpy().copy() for answer in graph(torch.from_numpy(views)))
        points[0, 2, 1] += away_px
        return [points, peaks]

    with torch.no_grad():
        row = compare(graph, run, views_of(4))
    assert row["max_px"] == pytest.approx(away_px, abs=1e-4)
    assert row["keypoints"] + row["undecided"] == 20
    if away_px > 0.05:
        with pytest.raises(InputError, match=r"a keypoint is 0\.060 px away"):
            _refuse_difference("pose.onnx", row)
    else:
        _refuse_difference("pose.onnx", row)


def test_two_cells_that_are_equally_high_are_not_compared() -> None:
    """Rounding decides between them; a network that says nothing else is refused as untrained."""
    model = person_model()
    for name, value in model.network.head.final.named_parameters():
        torch.nn.init.zeros_(value) if name == "weight" else torch.nn.init.ones_(value)
    graph = PoseGraph(model).eval()
    with torch.no_grad():
        row = compare(
            graph, lambda views: [a.numpy() + 9 for a in graph(torch.from_numpy(views))], views_of(2)
        )
    assert (row["keypoints"], row["undecided"]) == (0, 10)
    with pytest.raises(InputError, match="not sure of a single keypoint"):
        _refuse_difference("pose.onnx", row)


def test_views_of_shards_are_those_of_predicting(tmp_path: Path) -> None:
    """Which `evaluate.py` is compared with elsewhere; the recipe of the model says where the shards are."""
    source = DrawnFormat(folder=tmp_path / "drawn", people=6, seed=3)
    build(BuildSettings(source=source, output=tmp_path / "val", samples_per_shard=4), console=QUIET)
    folder = write_folder(tmp_path / "mine", person_model(14, LSP_14))
    (folder / "model" / "recipe.yaml").write_text(f"data: {{val: {tmp_path / 'val'}}}\n")
    model = replace(person_model(14, LSP_14), source=str(folder))
    views, whose = read_views(model, (64, 48), 5)
    assert (views.shape, views.dtype) == ((5, 64, 48, 3), np.uint8)
    assert str(tmp_path / "val") in whose
    import io
    import tarfile

    cuts = []
    for tar in sorted((tmp_path / "val").glob("*.tar")):
        with tarfile.open(tar) as file:
            contents = {member.name: file.extractfile(member) for member in file}
            payloads = {name: stream.read() for name, stream in contents.items() if stream}
        for name in sorted(name for name in payloads if name.endswith(".jpg")):
            pixels = np.array(Image.open(io.BytesIO(payloads[name])))
            box, _ = decode_pose(payloads[name.replace(".jpg", ".pose")], 14)
            cuts.append(Cut(pixels, np.eye(2, 3), box, (pixels.shape[1], pixels.shape[0])))
    maker = ViewMaker((64, 48), "mean")
    image = maker.people(cuts[:5]).image
    maker.close()
    levels = 255 * (image * torch.tensor(STD_RGB).view(3, 1, 1) + torch.tensor(MEAN_RGB).view(3, 1, 1))
    difference = (levels.permute(0, 2, 3, 1) - torch.from_numpy(views).float()).abs()
    assert difference.mean() < 1


def test_drawn_people_stand_in_where_there_are_no_shards(tmp_path: Path) -> None:
    model = replace(person_model(), source=str(write_folder(tmp_path / "mine", person_model())))
    views, whose = read_views(model, (64, 48), 8)
    assert (views.shape, whose) == ((8, 64, 48, 3), "drawn people")
    assert len(np.unique(views.reshape(8, -1), axis=0)) == 8


def test_the_facts_hold_everything_that_a_user_needs() -> None:
    facts = facts_of(person_model(), (64, 48), flip_test=False)
    assert json.loads(json.dumps(facts)) == facts
    for key in ("flip_pairs", "bones", "sigmas", "border_rgb", "decode", "sigma", "weights", "licences"):
        assert facts[key] is not None, key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "MODEL is missing"),
        (["nowhere"], "nowhere: does not exist"),
        (["MODEL", "photo_hw=[64,64]"], "photo_hw: this model takes views of single people"),
        (["MODEL", "format=pt2", "precision=int8"], "int8 is a form of ONNX"),
        (["MODEL", "network=average"], "no network 'average'"),
    ],
)
def test_wrong_words_are_refused_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, sys)
    source = write_folder(tmp_path / "mine", person_model())
    with pytest.raises(SystemExit) as caught:
        main([str(source) if word == "MODEL" else word for word in words])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
