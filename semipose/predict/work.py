"""The work of `semipose predict` in parts, each of which any process can do: read, predict, draw, write."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from semipose.configs.disk import named_disk_errors
from semipose.configs.errors import InputError
from semipose.predict.draw import draw_people, encode_picture, shrunk
from semipose.predict.model import open_model
from semipose.predict.output import OutputFolder, row_of
from semipose.predict.people import People
from semipose.predict.predictor import ARRAYS, Frame, Predictor, frame_of_item
from semipose.predict.settings import PredictSettings
from semipose.predict.sources import FilmItem, PhotoItem, Work
from semipose.predict.tracks import Tracker
from semipose.predict.video import FilmWriter, frame_of_film, read_frames
from semipose.sharding.annotations.photos.base import UnreachableError
from semipose.sharding.store.files import write_atomic

PHOTOS_IN_PART = 128
"""Small enough that a killed command loses little, large enough that batches are full."""
FRAMES_IN_SECTION = 256
"""The same for films, whose sections are kept until the film is done."""
READERS, READ_AHEAD = 2, 8
"""Threads that decode photos, and how many photos they are ahead of the network."""
WRITERS, DRAWN_AHEAD = 2, 16

Item = TypeVar("Item")
Result = TypeVar("Result")
Tell = Callable[[int], None]
"""Told how many more photos or frames are done."""


@dataclass(frozen=True)
class Part:
    """Some photos, or one film."""

    number: int
    photos: tuple[PhotoItem, ...] = ()
    film: FilmItem | None = None


@dataclass(frozen=True)
class Job:
    """What all parts have in common; it is sent to other processes."""

    model: str
    cfg: PredictSettings
    output: Path
    identity: str
    """As JSON."""


def parts_of(work: Work) -> list[Part]:
    """The parts of the work: photos in their order, then each film."""
    starts = range(0, len(work.photos), PHOTOS_IN_PART)
    photos = [tuple(work.photos[start : start + PHOTOS_IN_PART]) for start in starts]
    parts = [Part(number, chunk) for number, chunk in enumerate(photos)]
    return parts + [Part(len(parts) + number, film=film) for number, film in enumerate(work.films)]


@lru_cache(maxsize=1)
def load_predictor(model: str, cfg: PredictSettings) -> Predictor:
    """The model of a job, once in each process."""
    return Predictor(
        open_model(model, cfg.device, network=cfg.network, decode=cfg.decode),
        people=cfg.people,
        batch_size=cfg.batch_size,
        precision=cfg.precision,
        flip_test=cfg.flip_test,
        min_peak=cfg.min_peak,
        min_score=cfg.min_score,
    )


def do_part(job: Job, folder: OutputFolder, part: Part, tell: Tell = lambda _: None) -> int:
    """Do one part, unless it is complete; returns the number of its photos or frames that were done."""
    if folder.part(part.number).is_file() and not (part.film and part.film.is_camera):
        tell(len(part.photos) or 1)
        return len(part.photos) or 1
    predictor = load_predictor(job.model, job.cfg)
    with named_disk_errors(folder.path), folder.writing(part.number) as write:
        if part.film is not None:
            return _do_film(part, predictor, job.cfg, folder, write, tell)
        return _do_photos(part.photos, predictor, job.cfg, folder, write, tell)


def _do_photos(
    photos: Sequence[PhotoItem],
    predictor: Predictor,
    cfg: PredictSettings,
    folder: OutputFolder,
    write: Callable[[dict[str, Any]], None],
    tell: Tell,
) -> int:
    """Predict photos; those that cannot be read get a row that says why, in their place."""
    bad: list[tuple[PhotoItem, str]] = []

    def readable() -> Iterator[Frame]:
        for item, frame in ahead(partial(_read, stops=cfg.bad == "stop"), photos, READERS, READ_AHEAD):
            if isinstance(frame, str):
                bad.append((item, frame))
                write({"bad": {"file": item.file_name, "reason": frame}})
                tell(1)
            else:
                yield frame

    draw = partial(_write_picture, folder) if cfg.draw else lambda _: None
    keep = shrunk if cfg.draw else lambda _: None
    people_of_photos = predictor.predict(readable(), keep_pixels=keep)
    for people, _ in ahead(draw, people_of_photos, WRITERS, DRAWN_AHEAD):
        write(row_of(people))
        tell(1)
    return len(photos)


def _read(item: PhotoItem, *, stops: bool) -> Frame | str:
    """The photo, or why it cannot be read."""
    try:
        return frame_of_item(item, item.read())
    except UnreachableError:  # the server is gone, which is no fault of this photo
        raise
    except InputError as error:
        if stops:
            raise
        return str(error)


def _write_picture(folder: OutputFolder, people: People) -> None:
    path = folder.picture(people.file_name, ".jpg")
    write_atomic(path, encode_picture(draw_people(people.image, people), path))


def _do_film(
    part: Part,
    predictor: Predictor,
    cfg: PredictSettings,
    folder: OutputFolder,
    write: Callable[[dict[str, Any]], None],
    tell: Tell,
) -> int:
    """Predict the frames of a film, and write a film of them with the people drawn in."""
    film = part.film
    assert film is not None
    tracker = Tracker(cfg.smooth) if cfg.track == "oks" else None
    suffix = "" if film.file_name.lower().endswith(".mp4") else ".mp4"
    path = folder.picture(film.file_name, suffix) if cfg.draw else None
    writer: FilmWriter | None = None
    done, is_over = 0, False
    try:
        frames = read_frames(film, cfg.film)
        first = next(frames, None)
        if first is not None and path is not None:
            writer = FilmWriter(path, first.rate / cfg.film.stride)
        given = (frame_of_film(film, frame) for frame in chain([first] if first else [], frames))
        section = None if film.is_camera else partial(folder.section, part.number)
        for people in people_of_frames(given, predictor, shrunk if cfg.draw else lambda _: None, section):
            people = tracker.update(people) if tracker else people
            write(row_of(people))
            if writer is not None:
                writer.write(draw_people(people.image, people))
            done += 1
            tell(1)
        is_over = True
    except KeyboardInterrupt:
        if not film.is_camera:  # which has no other end
            raise
        is_over = True
    except InputError as error:
        if cfg.bad == "stop" or film.is_camera or "PyAV" in str(error):
            raise
        write({"bad": {"file": film.file_name, "reason": str(error)}})
        is_over = True
    finally:
        if writer is not None and is_over:
            writer.close()
        elif writer is not None:
            writer.abandon()
    return done


def people_of_frames(
    frames: Iterator[Frame],
    predictor: Predictor,
    keep_pixels: Callable[[np.ndarray], np.ndarray | None],
    section: Callable[[int], Path] | None,
) -> Iterator[People]:
    """The people of each frame of a film, in order; those of sections that are written are read again.

    section: the file of a section of FRAMES_IN_SECTION frames, by its number; None: nothing is kept. Batches
    end with a section, so an interruption changes no number.
    """
    for number in count():
        first = next(frames, None)
        if first is None:
            return
        rest = chain([first], islice(frames, FRAMES_IN_SECTION - 1))
        path = section(number) if section else None
        if path is not None and path.is_file():
            for frame, row in zip(rest, path.read_bytes().splitlines(), strict=False):
                yield predictor.restored(frame, msgspec.json.decode(row), keep_pixels)
            continue
        rows = []
        for people in predictor.predict(rest, keep_pixels=keep_pixels):
            rows.append(msgspec.json.encode({name: getattr(people, name).tolist() for name in ARRAYS}))
            yield people
        if path is not None:
            write_atomic(path, b"\n".join(rows))


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order; threads are at most `most` items ahead of whoever takes them."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                if len(pending) > most:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def do_part_elsewhere(job: Job, part: Part) -> int:
    """`do_part` in another process or on another machine."""
    return do_part(job, OutputFolder.begun(job.output, job.identity), part)


def with_given_boxes(work: Work, cfg: PredictSettings, keypoints: Sequence[str]) -> Work:
    """The work with the boxes that settings name: those of a file, or none of a COCO source.

    keypoints: the names of the model's.
    """
    from semipose.predict.box_file import boxes_of_file

    if cfg.people.name == "boxes":
        notes: list[str] = []
        found = boxes_of_file(cfg.people, work.photos, keypoints, notes)
        photos = [replace(item, boxes=found[i]) for i, item in enumerate(work.photos)]
        return work._replace(photos=photos, notes=notes)
    if cfg.people.name != "auto":
        return work._replace(photos=[replace(item, boxes=None) for item in work.photos], notes=[])
    return work
