"""Films in and out through PyAV, which is an optional extra, and a camera through OpenCV."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semipose.configs.errors import InputError, one_line
from semipose.predict.predictor import Frame
from semipose.predict.settings import FilmSettings
from semipose.predict.sources import FilmItem
from semipose.sharding.samples.decode import MOST_PIXELS

EVERY_FRAME = FilmSettings()
_PROTOCOLS = {"file": "file", "http": "http,https,tcp,tls,crypto", "https": "http,https,tcp,tls,crypto"}
"""What a film may open, by its own address: a playlist on the disk must not reach into the network."""


@dataclass(frozen=True)
class FilmFrame:
    """One frame."""

    pixels: np.ndarray
    """(H, W, 3) uint8 RGB."""
    number: int
    """Its number in the film, from 0."""
    time_s: float
    """Its time in seconds."""
    rate: Fraction
    """Frames per second of the film."""


def frame_of_film(film: FilmItem, frame: FilmFrame) -> Frame:
    """A frame of a film, for the predictor."""
    facts = {"file_name": film.file_name, "frame": frame.number, "time_s": frame.time_s, "image_id": 0}
    return Frame(frame.pixels, facts)


def load_av() -> Any:
    """The module of PyAV. Raises InputError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError("films need PyAV, which is not installed: pip install 'semipose[video]'") from error
    return av


def read_frames(film: FilmItem, cfg: FilmSettings = EVERY_FRAME) -> Iterator[FilmFrame]:
    """The frames that `cfg` asks for, in order, as they are shown (turned as the film says).

    Raises InputError for a file that is no film, or that breaks off in the middle.
    """
    if film.is_camera:
        yield from _camera(film, cfg)
        return
    av = load_av()
    scheme = film.address.partition("://")[0] if "://" in film.address else "file"
    try:
        options = {"protocol_whitelist": _PROTOCOLS.get(scheme, scheme)}
        with av.open(film.address, options=options) as container:
            if not container.streams.video:
                raise InputError(f"{film.where}: this file holds no film")
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
                raise InputError(
                    f"{film.where}: its frames have more than {MOST_PIXELS:,} pixels: make it smaller"
                )
            stream.thread_type = "AUTO"
            rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            for number, frame in enumerate(container.decode(stream)):
                time_s = float(frame.time) if frame.time is not None else float(number / rate)
                if cfg.stop is not None and time_s > cfg.stop:
                    return
                if time_s < cfg.start or number % cfg.stride:
                    continue
                pixels = _turned(frame.to_ndarray(format="rgb24"), int(getattr(frame, "rotation", 0)))
                yield FilmFrame(pixels, number, round(time_s, 6), rate)
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{film.where}: the film cannot be read ({one_line(error)}): replace the file"
        ) from error


def _turned(pixels: np.ndarray, degrees: int) -> np.ndarray:
    """A frame turned counter-clockwise, as its film says it is to be shown."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90) % 4)) if degrees else pixels


def _camera(film: FilmItem, cfg: FilmSettings) -> Iterator[FilmFrame]:
    capture = cv2.VideoCapture(int(film.address))
    try:
        if not capture.isOpened():
            raise InputError(f"camera {film.address}: it cannot be opened: give the number of another one")
        rate = Fraction(capture.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
        number = 0
        while (reading := capture.read())[0]:
            time_s = float(number / rate)
            if cfg.stop is not None and time_s > cfg.stop:
                return
            if number % cfg.stride == 0 and time_s >= cfg.start:
                yield FilmFrame(cv2.cvtColor(reading[1], cv2.COLOR_BGR2RGB), number, round(time_s, 6), rate)
            number += 1
    finally:
        capture.release()


class FilmWriter:
    """Writes frames (h, w, 3) uint8 RGB as H.264, which browsers play; the file is there when it is whole."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._av, self.path = load_av(), path
        self._aside = path.with_name(f"{path.name}.tmp.mp4")
        self._rate = rate.limit_denominator(60_000)
        self._container: Any = None
        self._stream: Any = None
        self._size_wh = (0, 0)

    def write(self, picture: np.ndarray) -> None:
        """Add a frame; all have the size of the first one."""
        height, width = (
            side - side % 2 for side in picture.shape[:2]
        )  # H.264 stores colour at half the size
        if self._container is None:
            self._container = self._av.open(str(self._aside), "w", format="mp4")
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height = self._size_wh = (width, height)
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "20", "preset": "veryfast"}
        if (width, height) != self._size_wh:
            picture = cv2.resize(picture, self._size_wh)
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(picture[: self._size_wh[1], : self._size_wh[0]]), format="rgb24"
        )
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the end of the film and give it its name; without a frame there is none."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._aside.replace(self.path)
            self._container = None

    def abandon(self) -> None:
        """Remove what was written."""
        if self._container is not None:
            self._container.close()
            self._aside.unlink(missing_ok=True)
            self._container = None
