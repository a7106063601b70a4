"""The wheel holds the recipes and the command, and works where other packages are called `models`."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_predicts_in_a_folder_with_other_models(
    run_folder: Path, write_photo, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"  # a copy, because setuptools writes beside what it builds
    for name in ("configs", "sharding", "pipelines", "models", "training", "semipose"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    make = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(make, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("semipose-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        file.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if not name.startswith("semipose-")} == {"semipose"}
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"semipose/{recipe}" for recipe in recipes} <= set(names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "semipose = semipose.cli:main" in (tmp_path / "site" / entry).read_text()
    project = tmp_path / "project"
    for name in ("models", "configs", "training"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise ImportError('these are other modules')")
    write_photo(project / "photo.png")
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path / "site")!r})
        import semipose, semipose.cli
        assert semipose.__file__.startswith({str(tmp_path / "site")!r}), semipose.__file__
        semipose.cli.main(["--help"])
        print(semipose.load({str(run_folder)!r}, people="whole")("photo.png").xy.shape)"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "predict " in done.stdout
    assert "(1, 14, 2)" in done.stdout
