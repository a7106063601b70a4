"""What the READMEs name exists, and their code can be imported and run."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = "configs|sharding|pipelines|models|training|tests|docs"
READMES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/**/README.md"))]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_targets_files_and_links_exist(readme: Path) -> None:
    text = readme.read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets()
    files = re.findall(rf"(?<![\w/])(?:{FOLDERS})/[\w/+-]+\.(?:yaml|py|md)", text)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [name for name in files if not (ROOT / name).exists() and "NAME" not in name] == []
    assert [link for link in links if not (readme.parent / link).exists()] == []


def test_make_alone_lists_every_target() -> None:
    shown = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == targets()


def test_every_code_folder_has_a_readme() -> None:
    for folder in ("configs", "sharding", "pipelines", "models", "training", "semipose", "tests"):
        assert (ROOT / folder / "README.md").is_file()


@pytest.mark.parametrize("folder", ["pipelines/masking", "pipelines/strong"])
def test_the_example_runs(folder: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / folder / "README.md").read_text(), flags=re.DOTALL)
    exec(code, {})


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_in_a_readme_imports_names_of_the_package(readme: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), flags=re.DOTALL)
    for line in re.findall(r"^(?:from|import) .+$", "".join(blocks), flags=re.MULTILINE):
        assert not re.match(rf"(?:from|import) (?:{FOLDERS})\b", line), f"{line}: begin with semipose."
        exec(line, {})


def nearest_readme(file: Path) -> Path:
    return next(folder / "README.md" for folder in file.parents if (folder / "README.md").exists())


@pytest.mark.parametrize("folder", ["configs", "sharding", "pipelines", "models", "training", "semipose"])
def test_every_module_stands_in_the_tree_of_its_readme(folder: str) -> None:
    files = [file for file in (ROOT / folder).rglob("*.py") if not file.name.startswith("__")]
    files = [file for file in files if file.resolve() == file]  # `semipose` holds links to the others
    assert [str(file) for file in files if file.name not in nearest_readme(file).read_text()] == []
