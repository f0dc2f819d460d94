"""A picture of the data set: what each camera sees of live faces, prints and replays."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .cameras import CAMERAS
from .videos import Attack, video

SIZE = 64
ENLARGED = 2
COLUMNS = 5
GAP = 4
LEFT, TOP = 64, 30
"""Room for the names of the rows and of the camera."""
KINDS: tuple[tuple[Attack, str], ...] = (("", "live"), ("print", "print"), ("replay", "replay"))


def sample_sheet(path: Path, seed: int = 0) -> None:
    """Draw the first frames of some videos of every camera and kind, named, into one PNG file.

    Pixels are enlarged and not smoothed. The picture has 256 colours.

    Args:
        path: where it is written.
        seed: of the data set that is shown.

    Raises:
        ForeignFileError: a file is there that is not ours.
        DataError: it cannot be written there.
    """
    from domaingrad.bench.reports.plot_files import written_to  # noqa: PLC0415 - takes a second

    wide = LEFT + COLUMNS * (SIZE * ENLARGED + GAP)
    high = TOP + len(KINDS) * (SIZE * ENLARGED + GAP)
    sheet = Image.new("RGB", (2 * wide + GAP, 2 * high + GAP), "white")
    for place, domain in enumerate(CAMERAS):
        block = _block(seed, domain, wide, high)
        sheet.paste(block, (place % 2 * (wide + GAP), place // 2 * (high + GAP)))
    with written_to(path) as part:
        sheet.quantize(palette=_palette(sheet), dither=Image.Dither.NONE).save(
            part, "PNG", optimize=True
        )


def _palette(sheet: Image.Image) -> Image.Image:
    """An image of 256 colours that stand for all; enlarged pixels count once.

    They are moved until few pixels, a fiftieth, would change their colour.
    """
    once = sheet.resize(
        (sheet.width // ENLARGED, sheet.height // ENLARGED), Image.Resampling.NEAREST
    )
    return once.quantize(256, Image.Quantize.MEDIANCUT, kmeans=once.width * once.height // 50)


def _block(seed: int, domain: str, wide: int, high: int) -> Image.Image:
    """Rows of one camera's live faces, prints and replays."""
    block = Image.new("RGB", (wide, high), "white")
    draw = ImageDraw.Draw(block)
    draw.text((LEFT, 5), f"camera {domain}", "black", ImageFont.load_default(18))
    for row, (attack, name) in enumerate(KINDS):
        y = TOP + row * (SIZE * ENLARGED + GAP)
        middle = y + SIZE * ENLARGED // 2
        draw.text((LEFT - 8, middle), name, "black", ImageFont.load_default(16), anchor="rm")
        for subject in range(COLUMNS):
            (frame,) = video(seed, domain, subject, attack, 0, SIZE, 1)
            tile = Image.open(io.BytesIO(frame))
            large = tile.resize((SIZE * ENLARGED, SIZE * ENLARGED), Image.Resampling.NEAREST)
            block.paste(large, (LEFT + subject * (SIZE * ENLARGED + GAP), y))
    return block
