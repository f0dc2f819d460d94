"""What is written to disk and read from it: whole or not at all, over nobody's files, no links."""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from domaingrad.engine.errors import is_out_of_memory

LOCK = "lock"
PART = re.compile(r"\.domaingrad-[0-9a-f]{12}\.part(\.\w+)?")
"""Names of files that are being written."""
MARK = "written by domaingrad"
"""What a file of ours says of itself near its beginning or end, where it may lie in any folder."""
IN_ZIP = struct.pack("<H", len(MARK)) + MARK.encode()
"""The mark as the comment of a ZIP archive, in place of the last two bytes of one without."""
SEARCHED = 2**16
"""Bytes at each end of a file in which its mark is looked for."""
LARGEST_TEXT = 2**28
"""Bytes of settings, plans and lists beyond which they are refused."""
BOMB_BYTES, BOMB_RATIO = 2**26, 100
"""Packed files that are larger than both, in bytes and in times of what is packed, are refused."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
_GZIP = b"\x1f\x8b"


class RunDirectoryError(ValueError):
    """A directory or file that cannot be used: what is there, and what to do."""


class FullDiskError(RunDirectoryError):
    """There is no room to go on; what was written before is whole."""


class ForeignFileError(RunDirectoryError):
    """A file that is not ours stands where one of ours would."""


def make(path: Path, *below: str) -> None:
    """Make a directory, and some in it, if missing; those in it are no links.

    Raises:
        RunDirectoryError: it cannot be made or written to.
    """
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file; name a directory.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in below:
            require_no_link(path / name)
            (path / name).mkdir(exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {path}: {error.strerror}. Choose a directory of your own."
        ) from error


def require_no_link(path: Path) -> None:
    """See that a path within a directory of ours does not lead out of it.

    Raises:
        ForeignFileError: it is a symbolic link.
    """
    if path.is_symlink():
        raise ForeignFileError(
            f"{path} is a symbolic link, which may lead anywhere; remove it, or put what it leads "
            f"to in its place."
        )


def is_writable(path: Path) -> bool:
    """Whether files can be made in a directory."""
    try:
        part = path / _part_name()
        os.close(_create(part))
        part.unlink()
    except OSError:
        return False
    return True


@contextmanager
def alone_in(path: Path, other: str, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out; the lock ends with the process, however that ends.

    Args:
        path: the directory.
        other: who else may be there, and does what.
        patience: seconds to wait for another process to end.

    Raises:
        RunDirectoryError: another process is at work here, or cannot be kept out.
    """
    with locked(path / LOCK, patience) as held:
        if not held:
            raise RunDirectoryError(f"{other} in {path}. Wait for it, or choose another directory.")
        remove_parts(path)
        yield


def remove_parts(path: Path) -> None:
    """Remove what processes that were killed have left in a directory that no other writes to."""
    for left in path.iterdir():
        if PART.fullmatch(left.name):
            left.unlink()


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold a lock while the block runs, or tell it that another process does.

    Args:
        path: an empty file, made if missing.
        patience: seconds to wait for another process to end; negative for ever.

    Raises:
        RunDirectoryError: it is no file of ours, or another user's.
    """
    if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size)):
        raise ForeignFileError(
            f"{path} is no lock of domaingrad's, which is an empty file; move it away, or choose "
            f"another directory."
        )
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise RunDirectoryError(
            f"{path} cannot be locked ({error.strerror}), since the directory is read-only or "
            f"another user's; choose a directory of your own."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def replace(path: Path, content: bytes | str) -> None:
    """Write a file, or what it holds anew: whole, or not at all; a link is replaced, not followed.

    Raises:
        FullDiskError: the disk is full.
        OSError: it cannot be written.
    """
    with writing(path) as (_, file):
        file.write(encoded(content))


def encoded(content: bytes | str) -> bytes:
    """Text in UTF-8; what is no Unicode, as a file's name in another encoding, as an escape."""
    return content if isinstance(content, bytes) else content.encode(errors="backslashreplace")


@contextmanager
def writing(path: Path, suffix: str = "") -> Iterator[tuple[Path, BinaryIO]]:
    """A file that takes its name once the block has written all of it, and where it is until then.

    Args:
        path: the name it takes.
        suffix: end of its name until then.

    Raises:
        FullDiskError: the disk is full.
        OSError: it cannot be written.
    """
    part = path.with_name(_part_name() + suffix)
    try:
        with room(path.name, path.parent):
            with creating(part) as file:
                yield part, file
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """A file where none is, in a directory that counts once all of its files are written.

    Raises:
        OSError: something is there, or it cannot be written.
    """
    with os.fdopen(_create(path), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def append(path: Path, line: bytes) -> None:
    """Add to the end of a file that is no link, made if missing.

    Raises:
        FullDiskError: the disk is full.
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW | _NO_WAIT
    with room(path.name, path.parent):
        file = os.open(path, flags, 0o666)
        try:
            written = 0
            while written < len(line):
                written += os.write(file, line[written:])
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read from; nothing is waited for, as at a pipe.

    Raises:
        OSError: no such file, or no plain one.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | _NO_WAIT), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        yield file


def read(path: Path, most: int | None = LARGEST_TEXT) -> bytes:
    """What a file holds.

    Args:
        path: the file.
        most: bytes beyond which it is refused.

    Raises:
        OSError: no such file, no plain one, or a larger one.
    """
    with opened(path) as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
        return file.read()


def unpacked(path: Path) -> bytes:
    """What a file holds, packed with gzip or not.

    Raises:
        OSError, EOFError, zlib.error: as :func:`read`; or damaged, or packed so that it fills the
            memory.
    """
    content = read(path, None)
    if not content.startswith(_GZIP):
        return content
    most = max(BOMB_BYTES, BOMB_RATIO * len(content))
    with gzip.open(BytesIO(content)) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _bomb(path)
    return content


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name, as ``numpy.savez`` writes them; no Python objects.

    Raises:
        OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError: as :func:`read`; or
            something else, damaged, or packed so that it fills the memory.
    """
    with opened(path) as file:  # by us, since NumPy leaves open what it cannot read
        if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
            raise ValueError("a single array; save arrays by name, as numpy.savez does")
        require_no_bomb(file, path)
        arrays = np.load(file, allow_pickle=False)
        return {name: arrays[name] for name in arrays.files}


def require_no_bomb(file: BinaryIO, path: Path) -> None:
    """See that a ZIP archive is not packed so that it fills the memory.

    Raises:
        OSError, BadZipFile: it is, or is none.
    """
    with zipfile.ZipFile(file) as archive:
        unpacked_bytes = sum(member.file_size for member in archive.infolist())
    if unpacked_bytes > max(BOMB_BYTES, BOMB_RATIO * file.seek(0, os.SEEK_END)):
        raise _bomb(path)
    file.seek(0)


def _bomb(path: Path) -> OSError:
    told = f"unpacked it is more than {BOMB_RATIO} times as large; unpack it if that is meant"
    return OSError(errno.EFBIG, told, str(path))


def require_ours(paths: Iterable[Path], mark: Callable[[Path], bytes]) -> None:
    """See that there is nothing at these paths, or what was written here before.

    Args:
        paths: of files that are about to be written.
        mark: what each has near its beginning or end if it is ours.

    Raises:
        ForeignFileError: something else is there.
    """
    foreign = [path for path in paths if os.path.lexists(path) and not _has(path, mark(path))]
    if foreign:
        names = ", ".join(path.name for path in foreign[:5])
        raise ForeignFileError(
            f"{foreign[0].parent} holds files that domaingrad has not written ({names}) and would "
            f"replace; move them away, or choose another place."
        )


def _has(path: Path, mark: bytes) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(SEARCHED)
        file.seek(max(0, path.stat().st_size - SEARCHED))
        return mark in begin or mark in file.read()


def remove_ours(folder: Path, ours: re.Pattern[str]) -> None:
    """Remove a folder in which nothing is but what bears our names.

    Args:
        folder: perhaps missing.
        ours: of each file's path from the folder.

    Raises:
        ForeignFileError: something else is in it.
    """
    require_no_link(folder)
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in [*links, *files]:
            found = (here / name).relative_to(folder).as_posix()
            if (here / name).is_symlink() or not (ours.fullmatch(found) or PART.fullmatch(name)):
                raise ForeignFileError(
                    f"{folder} holds what domaingrad has not written ({found}) and would remove; "
                    f"move it away, or choose another place."
                )
    if folder.exists():
        shutil.rmtree(folder)


def is_machines(error: BaseException) -> bool:
    """Whether the machine lacks something, so that what is read or run is not to blame."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _LACKING)


@contextmanager
def room(name: str, directory: Path) -> Iterator[None]:
    """Say what a full disk means; what was written before stays as it was.

    Raises:
        FullDiskError: the disk is full, or allows no file as large.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        told = "allows no file as large" if error.errno == errno.EFBIG else "is full"
        raise FullDiskError(
            f"the disk {told}: {name} could not be written to {directory}. What was written there "
            f"before is whole; make room and give the same command again."
        ) from error


def checksum(content: bytes) -> str:
    """Sixteen hexadecimal digits that another content has not."""
    return sha256(content).hexdigest()[:16]


def in_name(text: str, most: int = 80) -> str:
    """A text as a file's name: itself, or in so many bytes and told apart by its checksum.

    >>> in_name("+90%"), in_name("a b"), in_name("../a").startswith(".._a-")
    ('+90%', 'a b', True)
    >>> len(in_name("é" * 5000).encode())
    89
    """
    plain = re.sub(r"[^\w.+%° -]", "_", text).encode()[:most].decode(errors="ignore")
    if plain == text and text.strip(". ") == text:
        return text
    return f"{plain}-{checksum(text.encode(errors='surrogatepass'))[:8]}"


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)


def _part_name() -> str:
    return f".domaingrad-{token_hex(6)}.part"
