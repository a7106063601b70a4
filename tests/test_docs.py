"""The pages of docs/ work as they stand: every command, in the order of the pages, on drawn people."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SHORT = ("steps=2", "labelled_batch=4", "unlabelled_batch=4", "evaluate_every=2", "checkpoint_every=2")
MORE = {"train": SHORT, "teach": ("min_confidence=0",)}
"""Appended to commands: short trainings, and the labels of a network that is then sure of nothing."""
SEMIPOSE = (sys.executable, "-m", "semipose")


def pages() -> list[Path]:
    """The pages in the order of the table in docs/README.md, in which they follow one another."""
    return [DOCS / name for name in re.findall(r"\]\(([a-z-]+\.md)\) \|", (DOCS / "README.md").read_text())]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_page_has_commands() -> None:
    others = {"README.md", "methods.md", "results.md"}
    assert {page.name for page in pages()} == {page.name for page in DOCS.glob("*.md")} - others
    assert all(commands(page) for page in pages())
    assert all(line.startswith("semipose ") for page in pages() for line in commands(page))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_training_with_other_settings_has_an_output_of_its_own(page: Path) -> None:
    """A run does not go on with other settings than it began with."""
    inline = re.findall(r"(?<!`)`([^`]+)`(?!`)", page.read_text())
    said = [line for line in (*inline, *commands(page)) if re.search(r"semipose train \S+ .|^steps=", line)]
    assert [line for line in said if " output=" not in line] == []


@pytest.mark.parametrize("page", [DOCS / "README.md", *pages()], ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def run(words: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_the_commands_of_all_pages_run_one_after_the_other(tmp_path: Path) -> None:
    drawn = ("source.folder=drawn", "source.people=60", "source.seed=3", "output=ignored")
    run(
        [sys.executable, str(ROOT / "sharding/build.py"), str(ROOT / "configs/shards/drawn.yaml"), *drawn],
        tmp_path,
    )
    shutil.copy(tmp_path / "drawn" / "annotations.json", tmp_path / "my.json")
    (tmp_path / "drawn" / "images").rename(tmp_path / "photos")
    for page in pages():
        for line in commands(page):
            words = shlex.split(line)[1:]
            run([*SEMIPOSE, *words, *MORE.get(words[0], ())], tmp_path)
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
            shutil.copy(min((tmp_path / "photos").iterdir()), tmp_path / "photo.jpg")
            run([sys.executable, "-c", code], tmp_path)
    assert (tmp_path / "my/runs/semi-supervised/report.html").is_file()
    assert (tmp_path / "found/keypoints.csv").is_file()
    assert (tmp_path / "label/next/sheet-01.jpg").is_file()
    assert (tmp_path / "my.before-label-in.json").is_file()
    assert (tmp_path / "deploy").is_dir()
    assert (tmp_path / "people.webp").is_file()


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    cells = json.loads((DOCS / "first_steps.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    run([sys.executable, "-c", code], tmp_path)
    assert (tmp_path / "semipose-notebook/found.webp").is_file()
    assert all(not cell.get("outputs") for cell in cells)
