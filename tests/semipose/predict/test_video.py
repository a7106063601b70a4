"""Films: frames are photos, ids and smoothing, an H.264 film out, and files that are none."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.configs.load import load
from semipose.predict import command, work
from semipose.predict.people import People
from semipose.predict.predictor import Frame, Predictor
from semipose.predict.settings import PredictSettings
from semipose.predict.video import FilmWriter


def predict(run_folder: Path, sources: list[object], output: Path, *words: str) -> dict:
    cfg = load(PredictSettings, None, [f"output={output}", "people.name=whole", *words])
    command.predict_sources(str(run_folder), list(map(str, sources)), cfg, Console(quiet=True))
    return json.loads((output / "keypoints.json").read_bytes())


def test_the_frames_of_a_film_give_what_photos_give(run_folder, film, tmp_path) -> None:
    frames = predict(run_folder, [film], tmp_path / "film")
    photos = predict(run_folder, [tmp_path / "frames"], tmp_path / "photos")
    assert [row["keypoints"] for row in frames["annotations"]] == [
        row["keypoints"] for row in photos["annotations"]
    ]
    assert [image["file_name"] for image in frames["images"]] == [f"clip_{i:06d}.jpg" for i in range(6)]
    assert [image["time_s"] for image in frames["images"]] == pytest.approx([i / 10 for i in range(6)])
    table = list(csv.DictReader(io.StringIO((tmp_path / "film" / "keypoints.csv").read_text())))
    assert {(row["file"], row["frame"]) for row in table} == {("clip.avi", str(i)) for i in range(6)}


def test_the_drawn_film_is_h264_with_as_many_frames(run_folder, film, tmp_path) -> None:
    import av

    predict(run_folder, [film], tmp_path / "out", "film.stride=2")
    with av.open(str(tmp_path / "out" / "drawn" / "clip.avi.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert (len(frames), stream.average_rate) == (3, Fraction(5))
    assert not list((tmp_path / "out").rglob("*.tmp*"))


def test_what_was_predicted_of_an_interrupted_film_is_not_predicted_again(
    run_folder, film, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(work, "FRAMES_IN_SECTION", 2)
    words = ("track=oks", "smooth={}")
    whole = predict(run_folder, [film], tmp_path / "whole", *words)
    write, written = FilmWriter.write, []

    def write_five(writer: FilmWriter, picture: np.ndarray) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(write(writer, picture))

    with monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "write", write_five)
        with pytest.raises(KeyboardInterrupt):
            predict(run_folder, [film], tmp_path / "out", *words)
    assert not list((tmp_path / "out").rglob("*.mp4"))  # a film is there when it is whole
    predicted, predict_frames = [], Predictor.predict

    def count_frames(pose: Predictor, frames: Iterable[Frame], **options: Any) -> Iterator[People]:
        return predict_frames(pose, (predicted.append(frame) or frame for frame in frames), **options)

    monkeypatch.setattr(Predictor, "predict", count_frames)
    assert predict(run_folder, [film], tmp_path / "out", *words) == whole
    assert [frame.facts["frame"] for frame in predicted] == [4, 5]
    with pytest.raises(InputError, match="holds other predictions"):
        predict(run_folder, [film], tmp_path / "out", "track=oks")


def test_a_part_of_a_film_keeps_its_frame_numbers(run_folder, film, tmp_path) -> None:
    found = predict(run_folder, [film], tmp_path / "out", "film.start=0.1", "film.stop=0.35", "draw=false")
    assert [image["frame"] for image in found["images"]] == [1, 2, 3]


def test_ids_and_smoothing_are_written(run_folder, film, tmp_path) -> None:
    rough = predict(run_folder, [film], tmp_path / "1", "track=oks", "draw=false")
    smooth = predict(
        run_folder, [film], tmp_path / "2", "track=oks", "smooth={min_cutoff: 0.2}", "draw=false"
    )
    assert all(row["track_id"] >= 1 for row in rough["annotations"])
    moves = [
        np.abs(np.diff([row["keypoints"] for row in found["annotations"]], axis=0)).mean()
        for found in (rough, smooth)
    ]
    assert moves[1] < moves[0]


def test_photos_and_films_together_have_distinct_ids(run_folder, film, tmp_path) -> None:
    found = predict(run_folder, [tmp_path / "frames", film], tmp_path / "out", "draw=false")
    ids = [image["id"] for image in found["images"]]
    assert ids == list(range(1, 13))
    assert {row["image_id"] for row in found["annotations"]} == set(ids)


def test_a_file_that_is_no_film_is_named(run_folder, film, tmp_path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"this is no film")
    predict(run_folder, [film, tmp_path / "bad.mp4"], tmp_path / "out", "draw=false")
    (bad,) = json.loads((tmp_path / "out" / "bad.json").read_text())
    assert bad["file"] == "bad.mp4"
    assert "the film cannot be read" in bad["reason"]


def test_a_playlist_cannot_reach_the_network(run_folder, film, tmp_path) -> None:
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(InputError, match="nothing could be read"):
        predict(run_folder, [tmp_path / "list.mp4"], tmp_path / "out", "draw=false")


def test_without_pyav_a_film_is_one_sentence(run_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'semipose\[video\]'"):
        predict(run_folder, [tmp_path / "clip.mp4"], tmp_path / "out")


def test_a_camera_is_read_until_its_stop(run_folder, tmp_path, monkeypatch) -> None:
    class Camera:
        def __init__(self, number: int) -> None:
            assert number == 3

        def isOpened(self) -> bool:
            return True

        def get(self, _: int) -> float:
            return 10.0

        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.full((80, 60, 3), (255, 0, 0), np.uint8)

        def release(self) -> None:
            pass

    monkeypatch.setattr("semipose.predict.video.cv2.VideoCapture", Camera)
    found = predict(run_folder, ["3"], tmp_path / "out", "film.stop=0.45", "draw=false")
    assert [image["frame"] for image in found["images"]] == [0, 1, 2, 3, 4]
    assert found["images"][0]["video"] == "camera-3"
