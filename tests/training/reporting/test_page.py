"""The page of a run: its numbers are those of the run, it needs nothing else, and it never ends a run."""

import base64
import html
import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.models.files import PAGE_NAME, PEOPLE_NAME
from semipose.training.reporting.page.__main__ import main
from semipose.training.reporting.page.advice import Answer, next_steps
from semipose.training.reporting.page.contents import read_contents
from semipose.training.reporting.page.diagnosis import KINDS_OF_ERROR, Keypoints
from semipose.training.reporting.page.page import write_page
from semipose.training.reporting.people import read_people
from semipose.training.resume import differences
from semipose.training.run import run
from semipose.training.run_files import read_settings
from semipose.training.run_folder import LOCK_NAME
from semipose.training.settings import RunSettings, load_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None
)


class Page(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.slow
def test_the_page_at_the_end_of_a_run_holds_the_numbers_of_its_scores(runs: Path) -> None:
    page = Page(runs / "everything" / PAGE_NAME)
    scores = json.loads((runs / "everything" / "scores.json").read_text())["last"]["scores"]["network"]
    baseline = json.loads((runs / "supervised" / "scores.json").read_text())["last"]["scores"]["network"]
    for metric, label in (("AP", "AP"), ("PCK", "PCK@0.2")):
        difference = 100 * scores[metric] - 100 * baseline[metric]
        assert f"{label} {100 * scores[metric]:.1f} {difference:+.1f} against supervised" in page.text


def test_a_page_refers_to_nothing_outside(runs: Path) -> None:
    page = Page(runs / "everything" / PAGE_NAME)
    assert "http" not in page.source
    assert "@import" not in page.source
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [value for _, attributes in page.elements for key, value in attributes.items() if "href" in key]
    targets += [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    targets += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", page.source)]
    for target in targets:
        assert target is not None
        assert target.startswith("data:") or target[1:] in ids, target[:80]


def test_every_picture_decodes_and_says_what_it_shows(runs: Path) -> None:
    images = Page(runs / "everything" / PAGE_NAME).all("img")
    assert len(images) == 12 + 1  # four worst, median and best of twelve people, and the sheet of views
    for image in images:
        assert image["alt"]
        kind, _, content = str(image["src"]).partition(",")
        assert kind == "data:image/webp;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).load()


def test_every_person_that_is_shown_has_its_id_file_and_oks(runs: Path) -> None:
    page = Page(runs / "everything" / PAGE_NAME)
    people = read_people(runs / "everything")
    assert people is not None
    for index in np.concatenate(list(people.chosen().values())):
        caption = f"id {people.ids[index]} {people.file_names[index]} OKS {people.oks[index]:.2f}"
        assert caption in page.text


def test_a_page_stays_small(runs: Path) -> None:
    assert (runs / "everything" / PAGE_NAME).stat().st_size < 3e6


def test_a_finished_run_needs_no_shards_for_its_page(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "everything", tmp_path / "moved")
    card = json.loads((tmp_path / "moved" / "card.json").read_text())
    for role in ("labelled", "unlabelled", "val"):
        card[role]["folder"] = "/nowhere"
    (tmp_path / "moved" / "card.json").write_text(json.dumps(card))
    page = Page(write_page(tmp_path / "moved"))
    assert len(page.all("img")) == 13
    assert "Not known yet" in page.text  # no supervised run is beside it


@pytest.mark.parametrize(
    ("name", "method", "output"),
    [("everything", "supervised", "supervised-2"), ("supervised", "single", "semi-supervised")],
)
def test_the_run_to_compare_with_differs_in_its_method_alone(
    name: str, method: str, output: str, runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(runs / name, tmp_path / "my runs" / "mine")
    (tmp_path / "my runs" / "supervised").mkdir()  # of somebody else
    source = write_page(folder).read_text()
    commands = [html.unescape(each) for each in re.findall(r"<pre>(.*?)</pre>", source, re.DOTALL)]
    lines = next(each for each in commands if "method=" in each).splitlines()
    command, verb, recipe, *words = shlex.split(lines[0])
    assert (command, verb, recipe) == ("semipose", "train", str(folder / "recipe.yaml"))
    cfg = load_run([Path(recipe)], words)
    assert cfg.output == str(tmp_path / "my runs" / output)
    changes = [(each.setting, each.now) for each in differences(read_settings(folder), plain(cfg))]
    assert changes == [("method.name", method)]
    for line in lines[1:]:
        assert shlex.split(line) == ["semipose", "report", str(folder), f"against={cfg.output}"]


def test_a_run_of_an_older_version_says_what_its_page_lacks(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "everything", tmp_path / "old")
    (tmp_path / "old" / PEOPLE_NAME).unlink()
    page = Page(write_page(tmp_path / "old", against=runs / "supervised"))
    assert f"semipose evaluate {tmp_path / 'old'}" in page.text
    assert "against supervised" in page.text


@pytest.mark.slow
def test_a_probe_of_the_teacher_has_a_panel_and_a_row(runs: Path, tmp_path: Path) -> None:
    probed = shutil.copytree(runs / "everything", tmp_path / "probed")
    before = Page(write_page(probed))
    assert "hidden annotations" not in before.text
    rows = [{"step": step, "probe/kept_precision": 0.75, "probe/decoded_recall": 0.5} for step in (3, 6)]
    with (probed / "metrics.jsonl").open("a") as metrics:
        metrics.writelines(json.dumps(row) + "\n" for row in rows)
    card = json.loads((probed / "card.json").read_text())
    card["probe"] = {**card["unlabelled"], "people": 2}
    (probed / "card.json").write_text(json.dumps(card))
    page = Page(write_page(probed))
    for words in (
        "Teacher in hidden annotations",
        "kept_precision",
        "decoded_recall",
        "training never reads",
    ):
        assert words in page.text
    assert "teacher probed on 2 unlabelled photos of" in page.text


def test_names_that_look_like_markup_are_only_text(runs: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    shutil.copytree(runs / "everything", tmp_path / "evil")
    card = json.loads((tmp_path / "evil" / "card.json").read_text())
    card["protocol"] = name
    (tmp_path / "evil" / "card.json").write_text(json.dumps(card))
    page = Page(write_page(tmp_path / "evil"))
    assert name in page.text
    assert not page.all("script")


def test_a_page_that_cannot_be_written_is_a_sentence_and_the_run_ends_well(
    tiny_run: Callable[..., RunSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str], fresh_accelerate
) -> None:
    (tmp_path / "run" / PAGE_NAME).mkdir(parents=True)
    (tmp_path / "run" / PAGE_NAME / "something").touch()
    (tmp_path / "run" / LOCK_NAME).touch()  # as in the folder of a run that was killed
    job = run(tiny_run("supervised", "steps=1", "report=true"), resume=False)
    assert job.step == 1
    assert "note: the page was not written; `semipose report" in capsys.readouterr().out


def test_no_page_is_written_where_the_recipe_says_so(
    tiny_run: Callable[..., RunSettings], tmp_path: Path, fresh_accelerate
) -> None:
    cfg = tiny_run("supervised", "steps=1")
    assert not cfg.report
    run(cfg, resume=False)
    assert not (tmp_path / "run" / PAGE_NAME).exists()


def test_the_command_writes_the_page_where_it_is_told_and_refuses_in_a_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(runs / "everything"), f"against={runs / 'supervised'}", f"output={tmp_path / 'page.html'}"])
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([], "RUN_DIR is missing"),
        ([str(tmp_path / "empty")], "holds no recipe.yaml"),
        ([str(runs / "everything"), "agianst=x"], "against"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error


def test_runs_that_were_scored_on_other_people_are_not_compared(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "supervised", tmp_path / "other")
    card = json.loads((tmp_path / "other" / "card.json").read_text())
    card["val"]["ids_sha256"] = "0" * 64
    (tmp_path / "other" / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="scored on other people"):
        write_page(runs / "everything", against=tmp_path / "other", output=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("trusted", "peak", "net", "said", "unsaid"),
    [
        (0.0, 0.1, {"start_from": "x"}, "Lower method.min_peak, or let the teacher", "pretrained"),
        (1.0, 0.1, {}, "Raise method.min_peak, or let the teacher learn more first", "Lower"),
        (1.0, 0.1, {}, "or steps, pretrained weights, a larger method.burn_in)", "net.pretrained"),
        (0.3, 0.1, {"weights": "x"}, "You can let the teacher learn more first", "min_peak"),
        (1.0, 0.9, {}, "The teacher looks healthy", "pretrained"),
    ],
)
def test_the_advice_about_a_teacher_follows_from_the_run(
    trusted: float, peak: float, net: dict[str, str], said: str, unsaid: str, runs: Path
) -> None:
    contents = read_contents(runs / "everything")
    rows = [{"step": 6, "trusted_share": trusted, "teacher_peak": peak}]
    settings = {**contents.settings, "net": {**contents.settings["net"], **net}}
    answer = Answer("", "No clear difference", "neutral", ())
    run = replace(contents, rows=rows, settings=settings)
    first = next(next_steps(run, read_contents(runs / "supervised"), answer, None, None, []))
    assert said in first.text
    assert unsaid not in first.text


def test_the_advice_to_label_more_is_that_of_the_documentation(runs: Path) -> None:
    contents = read_contents(runs / "everything")
    keypoints = Keypoints(
        ("nose", "tail"), np.array([20, 20]), dict.fromkeys(KINDS_OF_ERROR, np.full(2, 0.25))
    )
    steps = list(next_steps(contents, None, Answer("", "", "", ()), keypoints, None, []))
    (step,) = [each for each in steps if "label more" in each.text]
    assert "photos chosen at random taught more" in step.text
    assert step.command == f"semipose label next {runs / 'everything'} PHOTOS strategy=random"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_loads_every_picture_without_a_complaint(runs: Path, tmp_path: Path) -> None:
    """The page with a script of the test that counts pictures which did not load, opened in Chromium."""
    source = (runs / "everything" / PAGE_NAME).read_text()
    probe = """<script>window.addEventListener("load", () => {
        const failed = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
        const entries = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:"));
        document.title = `${document.images.length} pictures, ${failed} failed, ${entries.length} requests`;
    })</script>"""
    (tmp_path / "page.html").write_text(source.replace("</html>", probe + "</html>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>13 pictures, 0 failed, 0 requests</title>" in seen.stdout
    assert "CONSOLE" not in seen.stderr
