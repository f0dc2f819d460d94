"""Frames taken evenly from a video, which is a file or a folder of frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from domaingrad.bench.disk import is_machines, opened
from domaingrad.bench.domains.data import DataError
from domaingrad.bench.domains.decoding import is_image

Images = dict[int, Image.Image]
"""By number in the video."""


class UnreadableError(DataError):
    """A video that cannot be read; others may be."""


def evenly(length: int, count: int) -> list[int]:
    """Middles of ``count`` equal parts of so many frames, or all frames where there are fewer.

    >>> evenly(10, 2), evenly(3, 5)
    ([2, 7], [0, 1, 2])
    """
    if length <= count:
        return list(range(length))
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]


def frames_of(video: Path, count: int) -> tuple[Images, bool]:
    """Frames at the places of :func:`evenly`, and whether all of the video can be decoded.

    Raises:
        UnreadableError: not one frame of a file, or not each wanted one of a folder, can be read.
        DataError: a file, and no PyAV.
    """
    return (_of_folder if video.is_dir() else _of_file)(video, count)


def _of_folder(folder: Path, frames: int) -> tuple[Images, bool]:
    files = sorted((f for f in folder.iterdir() if _is_frame(f)), key=_in_order)
    return {number: _opened(files[number]) for number in evenly(len(files), frames)}, True


def _is_frame(file: Path) -> bool:
    return is_image(file) and not file.name.startswith(".")


def _in_order(file: Path) -> list[tuple[int, str]]:
    """Numbers in a name count as such: frame 2 is before frame 10."""
    return [
        (len(number), number) if (number := part.lstrip("0")).isdecimal() else (0, part)
        for part in re.split(r"(\d+)", file.name)
    ]


def _opened(file: Path) -> Image.Image:
    try:
        with opened(file) as content, Image.open(content) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        if is_machines(error):
            raise
        raise UnreadableError(f"{file} ({error})") from error


def _of_file(file: Path, frames: int) -> tuple[Images, bool]:
    """Decoded once where the file holds as many frames as it says, else twice."""
    av = pyav()
    try:
        with opened(file):  # av would wait for a pipe
            pass
        with av.open(str(file)) as container:
            wanted = evenly(container.streams.video[0].frames, frames)
        images, decodable, whole = _decoded(av, file, wanted)
        if len(images) < len(wanted) or not wanted:
            images, _, unspoilt = _decoded(av, file, evenly(decodable, frames))
            whole = unspoilt and not wanted
    except (av.FFmpegError, OSError, IndexError) as error:  # no stream of video
        raise UnreadableError(f"{file} ({error})") from error
    if not images:
        raise UnreadableError(f"{file} (not one frame can be decoded)")
    return images, whole


def _decoded(av: Any, file: Path, wanted: Sequence[int]) -> tuple[Images, int, bool]:
    """The wanted frames that there are, how many were met, and whether none was spoilt."""
    images: Images = {}
    met, whole = 0, True
    with av.open(str(file)) as container:
        packets = _packets(av, container)
        for packet in packets:
            try:
                decoded = packet.decode() if packet is not None else None
            except av.FFmpegError:
                decoded = None
            if decoded is None:
                whole = False
                continue
            for frame in decoded:
                if met in wanted:
                    images[met] = _upright(frame)
                met += 1
            if wanted and len(images) == len(wanted):
                break
    return images, met, whole


def _packets(av: Any, container: Any) -> Iterator[Any]:
    """The packets of the first stream of video; ``None`` at the end of a file cut short."""
    try:
        yield from container.demux(container.streams.video[0])
    except av.FFmpegError:
        yield None


def _upright(frame: Any) -> Image.Image:
    """As the file says that it is to be shown; telephones store turned frames."""
    image: Image.Image = frame.to_image()
    turn = round(getattr(frame, "rotation", 0)) % 360
    return image.rotate(turn, expand=True) if turn else image


def pyav() -> Any:
    """The module that decodes video files, imported when it is used.

    Raises:
        DataError: it is not installed.
    """
    try:
        return import_module("av")
    except ImportError as error:
        raise DataError(
            f"video files are read by PyAV, which cannot be imported ({error}); run pip install "
            f"av, or extract the frames of each video into a folder of the video's name."
        ) from error
