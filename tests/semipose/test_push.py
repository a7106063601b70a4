"""A model goes to a hub and comes back to the bit; nothing private goes along; hostile ones are refused."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from semipose.configs.load import InputError
from semipose.models import hub as models_hub
from semipose.models.model_folder import model_folder, read_model
from semipose.models.net import build_net
from semipose.models.start import start_network
from semipose.push import main, without_folders
from semipose.sharding.annotations.skeleton import LSP_14
from tests.semipose.hub_server import SHA, Hub, serving
from tests.semipose.models import person_model, write_folder
from tests.training import tiny


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(models_hub, "REACH_TIMEOUT_S", 1.0)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with a model, a card and a recipe that name folders of this machine, and a picture."""
    run = tmp_path / "runs" / "mine"
    folder = write_folder(run, person_model(14, LSP_14)) / "model"
    people = {"folder": "/data/secret/train", "people": 10, "ids_sha256": "ab" * 32}
    card = {"labelled": {"choice": "the first 10 people of /data/secret/train", **people}, "unlabelled": None}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "recipe.yaml").write_text("data: {train: /data/secret/train, val: 'pipe:ssh me@host cat /x'}\n")
    (run / "pictures").mkdir()
    (run / "pictures" / "views-00000001.webp").write_bytes(b"people")
    return run


def push(*words: Any) -> None:
    main([str(word) for word in words])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.json", '{"step": 3}'),
        ("scores.json", '{"scores": 3}'),
        ("card.json", '{"labelled": {"people": 10}}'),
    ],
)
def test_a_damaged_folder_is_no_fault_of_the_hub(
    name: str, content: str, hub: Hub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "model" / name).write_text(content)
    with pytest.raises(SystemExit):
        push(run_folder, "me/dancers", "license=cc-by-4.0")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {run_folder / 'model'}: scores.json or card.json does not")
    assert "did not take the model" not in said
    assert not hub.repositories


def test_a_model_goes_up_and_comes_back_to_the_bit(hub: Hub, run_folder: Path) -> None:
    push(run_folder, "me/dancers", "license=cc-by-4.0")
    files = hub.repositories["me/dancers"]
    assert set(files) >= {"README.md", "config.json", "model.safetensors", "card.json", "recipe.yaml"}
    assert hub.private["me/dancers"] is True
    assert hub.tokens == {"Bearer hf_test"}
    model = read_model("hf://me/dancers", "cpu")
    local = read_model(run_folder, "cpu")
    assert model.config == local.config
    for name, value in local.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)
    again = len(hub.downloads)
    assert read_model(f"hf://me/dancers@{SHA}", "cpu").config == local.config
    assert len(hub.downloads) == again  # downloaded once


def test_the_card_on_the_hub_has_the_licence_and_no_folder_of_this_machine(
    hub: Hub, run_folder: Path
) -> None:
    push(run_folder, "me/dancers", "license=cc-by-4.0", "private=false")
    assert hub.private["me/dancers"] is False
    text = b"\n".join(hub.repositories["me/dancers"].values()).decode("utf-8", "replace")
    readme = hub.repositories["me/dancers"]["README.md"].decode()
    for part in ("license: cc-by-4.0", "library_name: semipose", 'semipose.load("hf://me/dancers")'):
        assert part in readme, part
    for part in ("/data", "secret", "me@host", str(run_folder)):
        assert part not in text, part
    assert b"the first 10 people of train" in hub.repositories["me/dancers"]["card.json"]


def test_pictures_of_people_go_along_only_where_that_is_said(hub: Hub, run_folder: Path) -> None:
    push(run_folder, "me/dancers", "license=mit")
    assert not any("pictures" in name for name in hub.repositories["me/dancers"])
    push(run_folder, "me/dancers", "license=mit", "pictures=true")
    assert hub.repositories["me/dancers"]["pictures/views-00000001.webp"] == b"people"


def test_networks_start_from_a_model_on_the_hub(hub: Hub, run_folder: Path) -> None:
    push(run_folder, "me/dancers", "license=mit")
    network = build_net(tiny.NET, 14)
    start = start_network(network, "hf://me/dancers", LSP_14)
    assert start.source == "hf://me/dancers"
    assert torch.equal(network.head.final.weight, read_model(run_folder, "cpu").network.head.final.weight)


def test_a_model_that_was_downloaded_needs_no_hub(
    hub: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run_folder, "me/dancers", "license=mit")
    first = model_folder("hf://me/dancers")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert model_folder("hf://me/dancers") == first
    with pytest.raises(InputError, match=r"hf://me/others: http://127\.0\.0\.1:9 cannot be reached"):
        model_folder("hf://me/others")


def refusal(words: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        push(*words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_may_not_be_pushed_is_refused_in_a_line(
    hub: Hub, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "license: say under which licence" in refusal([run_folder, "me/dancers"], capsys)
    assert "give MODEL" in refusal([run_folder], capsys)
    assert "no address of a model" in refusal([run_folder, "dancers", "license=mit"], capsys)
    assert "does not exist" in refusal([tmp_path / "no", "me/dancers", "license=mit"], capsys)
    (run_folder / "pictures" / "views-00000001.webp").unlink()
    words = [run_folder, "me/dancers", "license=mit", "pictures=true"]
    assert "pictures: " in refusal(words, capsys)
    (run_folder / "model" / "model.safetensors").write_bytes(pickle.dumps(1))
    assert "no file of safetensors" in refusal([run_folder, "me/dancers", "license=mit"], capsys)
    assert hub.repositories == {}


def test_a_hub_that_cannot_be_reached_is_named(
    run_folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("semipose.push.HfApi.create_repo", fail)
    said = refusal([run_folder, "me/dancers", "license=mit"], capsys)
    assert f"{hub.address} did not take the model (no route to host)" in said


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://me",
        "hf://me/",
        "hf://../x",
        "hf://me/..",
        "hf://a/b/c",
        "hf://me/x@../y",
        "hf://me/a b",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="no address of a model"):
        model_folder(address)


def test_hostile_models_are_refused_before_they_are_downloaded(hub: Hub, run_folder: Path) -> None:
    with pytest.raises(InputError, match="hf://me/absent: it could not be downloaded"):
        model_folder("hf://me/absent")
    push(run_folder, "me/dancers", "license=mit")
    files = hub.repositories["me/dancers"]
    good = dict(files)
    files["model.safetensors"] += bytes(1 << 25)
    with pytest.raises(InputError, match=r"model\.safetensors is missing, or has more bytes"):
        model_folder("hf://me/dancers")
    assert "model.safetensors" not in hub.downloads
    hub.repositories["me/pickle"] = {**good, "model.safetensors": pickle.dumps(print)}
    with pytest.raises(InputError, match="no file of safetensors"):
        read_model("hf://me/pickle", "cpu")
    config = json.loads(good["config.json"])
    config["networks"]["../../evil"] = config["networks"]["network"]
    hub.repositories["me/tricks"] = {**good, "config.json": json.dumps(config).encode()}
    with pytest.raises(InputError, match="networks"):
        model_folder("hf://me/tricks")
    hub.repositories["me/bare"] = {"README.md": b""}
    with pytest.raises(InputError, match=r"holds no config\.json"):
        model_folder("hf://me/bare")
    assert "evil" not in " ".join(hub.downloads)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/me/train", "train"),
        ("C:\\data\\me\\train", "train"),
        ("~/shards/train", "train"),
        ("the first 10 people of /data/me/train", "the first 10 people of train"),
        ("shards/train", "shards/train"),
        ("s3://bucket/train", "s3://bucket/train"),
        ("https://host/train", "https://host/train"),
        ("1/2", "1/2"),
        ("pipe:ssh me@host cat /x/{file}", "pipe:COMMAND"),
    ],
)
def test_folders_of_this_machine_stay_here(text: str, expected: str) -> None:
    assert without_folders({"a": [text]}) == {"a": [expected]}
