"""The rules between the rooms (README, "How it is built"): which may import which, and which libraries."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["configs", "sharding", "pipelines", "models", "training"]  # each imports only those before it
DOOR = "semipose"  # its own files import all rooms, and none of them imports it
ONLY_IN = {
    "nvidia.dali": {"pipelines/graph.py", "pipelines/photo_graph.py"},
    "webdataset": {"training/bench/rivals/plain_shards.py", "pipelines/stream.py"},
    "accelerate": {
        "training/run.py",
        "training/loop.py",
        "training/reporting/report.py",
        "training/reporting/trackers.py",
        "training/bench/step_process.py",
    },
    "pycocotools": {"training/scoring/oks.py"},
    "av": {"semipose/predict/video.py"},  # optional
    "supervision": {"semipose/predict/people.py"},  # optional
    # a detector for unlabelled photos, rivals, and one convolution: what it does inside differs between its
    # versions
    "torchvision": {
        "models/heads/dekr.py",
        "sharding/annotations/detector.py",
        "training/bench/rivals/classic_loader.py",
        "training/bench/rivals/kornia_views.py",
        "training/bench/rivals/torchvision_v2.py",
    },
}
OWN_CONSOLES = {  # they escape what is not theirs; all others are plain
    "configs/console.py",
    "configs/help.py",
    "pipelines/cache/store.py",
    "semipose/doctor.py",
}
LIGHT_ROOMS = ("configs", "sharding")  # run where there is no torch: they cut and write data
LAZY = "sharding/annotations/detector.py"  # asks torchvision for boxes where a recipe says so
FILES = sorted(
    str(file.relative_to(ROOT))
    for room in (*ROOMS, DOOR)
    for file in (ROOT / room).rglob("*.py")
    if file.resolve() == file  # the door holds links to the rooms
)
DOORS_OWN = sorted(
    {Path(file).with_suffix("").parts[1] for file in FILES if file.startswith("semipose/")} - {"__init__"}
)
TEXTS = sorted(
    str(file.relative_to(ROOT))
    for room in (*ROOMS, "tests", "docs", ".")
    for file in ((ROOT / room).glob("*") if room == "." else (ROOT / room).rglob("*"))
    if file.suffix in {".py", ".md", ".yaml", ".toml"} or file.name == "Makefile"
)


def imported_modules(file: str) -> set[str]:
    """Dotted names of everything that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: import by the full name, not relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("file", FILES)
def test_imports_keep_to_the_rules(file):
    room = file.split("/")[0]
    forbidden = []
    if room != DOOR:
        forbidden = [f"semipose.{later}" for later in [*ROOMS[ROOMS.index(room) + 1 :], *DOORS_OWN]]
    forbidden += ROOMS  # each module has one name, under `semipose`
    forbidden += [library for library, homes in ONLY_IN.items() if file not in homes]
    forbidden += ["torch", "nvidia"] if room in LIGHT_ROOMS and file != LAZY else []
    found = [name for name in imported_modules(file) if any(is_within(name, each) for each in forbidden)]
    assert not found, f"{file} may not import {', '.join(found)}"


@pytest.mark.parametrize("file", FILES)
def test_commands_print_names_as_they_are(file):
    """A console of rich takes `[...]` in the name of a folder for markup: semipose/configs/console.py."""
    calls = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Call)]
    consoles = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Console"]
    loud = [call for call in consoles if "quiet=True" not in ast.unparse(call)]
    assert not loud or file in OWN_CONSOLES, f"{file}: use plain_console"


def test_sharding_loads_without_torch():
    """The exempt file imports torch where it detects, and nowhere else."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; import semipose.sharding.build"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_reads_no_shards_imports_without_dali_and_triton():
    """Both exist for Linux alone; sharding, models, scores and tables are used on macOS and Windows too."""
    modules = ", ".join(
        "semipose." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in FILES
        if file.startswith(("configs/", "sharding/", "models/", "training/scoring/"))
    )
    code = f"""if True:
        import sys
        sys.modules |= dict.fromkeys(["nvidia", "nvidia.dali", "triton", "fcntl"])
        import {modules}
        import semipose.training.settings, semipose.training.predict, semipose.training.experiments.tables
        from semipose.pipelines.graph import Reading
        try:
            Reading(tars=(), indices=(), batch_size=1, seed=0)
        except semipose.configs.load.InputError as error:
            assert "DALI" in str(error) and "Linux" in str(error)
        else:
            raise AssertionError("a reading was made without DALI")"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)


def test_the_page_of_a_run_needs_no_loader_and_no_launcher():
    """It reads a folder: `semipose report` need not wait for DALI, webdataset and Accelerate."""
    code = """if True:
        import sys
        import semipose.training.reporting.page.__main__
        loaded = {"nvidia.dali", "webdataset", "accelerate"} & set(sys.modules)
        assert not loaded, loaded"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_script_folder_hides_a_standard_module():
    """`python training/run.py` puts training/ first on the import path."""
    hidden = [file for file in FILES if Path(file).stem in sys.stdlib_module_names]
    assert not hidden


@pytest.mark.parametrize("file", TEXTS)
def test_no_paths_of_one_machine(file):
    found = re.findall(r"(?<![\w.])/(?:work|root|home|Users)/\S*", (ROOT / file).read_text())
    assert not found


def test_scripts_import_without_numba_and_leave_the_path_of_modules_alone():
    """The compiler of numba takes memory: it is imported where the first mask is painted on a CPU."""
    scripts = (
        "run",
        "evaluate",
        "compare",
        "sweep",
        "demo",
        "gpu_check",
        "bench.loader",
        "bench.step_process",
    )
    modules = ", ".join(["semipose.sharding.build", *(f"semipose.training.{name}" for name in scripts)])
    code = f"""if True:
        import sys
        sys.modules["numba"] = None
        before = list(sys.path)
        import {modules}
        assert sys.path == before, sys.path"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
