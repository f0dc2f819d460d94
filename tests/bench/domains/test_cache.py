"""Images are decoded once, whole, and by one process at a time."""

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from domaingrad.bench.domains import cache as cache_module
from domaingrad.bench.domains import vectors
from domaingrad.bench.domains.cache import cache_directory, cached_bytes, clear_cache, decoded
from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.decoding import decode

SILENT = News()


@pytest.fixture
def files(tmp_path, save):
    return [save(tmp_path / "images" / f"{number}.png", number) for number in range(5)]


@pytest.fixture
def decodings(monkeypatch):
    """How many images each call of the decoder was given."""
    calls = []
    decode_each = cache_module.decode_each

    def counted(files, size):
        calls.append(len(files))
        return decode_each(files, size)

    monkeypatch.setattr(cache_module, "decode_each", counted)
    return calls


def entries(cache):
    return sorted(path.name for path in (cache / "images").iterdir() if path.suffix != ".lock")


def pixels(result):
    return result.images[torch.arange(len(result.images))]


def test_the_images_are_those_of_the_files(files):
    result = decoded(files, 6, SILENT)
    assert torch.equal(pixels(result), torch.stack([decode(path, 6) for path in files]))
    assert pixels(result).dtype == torch.uint8
    assert result.kept == (0, 1, 2, 3, 4)
    assert result.notes == ()


def test_the_second_time_nothing_is_decoded(files, decodings):
    first, second = decoded(files, 6, SILENT), decoded(files, 6, SILENT)
    assert decodings == [5]
    assert torch.equal(pixels(first), pixels(second))
    assert first.digest == second.digest


def test_changes_of_the_tensor_stay_in_memory(files):
    pixels(decoded(files, 6, SILENT)).zero_()
    assert torch.equal(pixels(decoded(files, 6, SILENT))[0], decode(files[0], 6))


def test_whatever_changes_the_pixels_is_decoded_anew(files, save, decodings):
    digests = {decoded(files, 6, SILENT).digest}
    digests.add(decoded(files, 5, SILENT).digest)
    digests.add(decoded(files[::-1], 6, SILENT).digest)
    digests.add(decoded(files[1:], 6, SILENT).digest)
    save(files[0], 99)
    os.utime(files[0], ns=(1, 1))
    digests.add(decoded(files, 6, SILENT).digest)
    assert decodings == [5, 5, 5, 4, 5]
    assert len(digests) == 5


def test_the_digest_does_not_depend_on_where_the_files_lie(files, tmp_path, save):
    copies = [save(tmp_path / "copies" / path.name, number) for number, path in enumerate(files)]
    assert decoded(files, 6, SILENT).digest == decoded(copies, 6, SILENT).digest


def test_the_directory_is_found_in_the_environment(monkeypatch):
    monkeypatch.setenv("DOMAINGRAD_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/own")
    monkeypatch.delenv("DOMAINGRAD_CACHE")
    assert cache_directory() == Path("/xdg/domaingrad")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "domaingrad"


def test_news_tells_of_size_and_place_before_and_of_progress(files, cache, decodings):
    told, steps = [], []

    def say(text):
        assert decodings == []
        told.append(text)

    decoded(files, 6, News(say=say, advance=lambda *step: steps.append(step)))
    assert len(told) == 1
    # 5 images of 3 · 6 · 6 bytes
    assert "5 images to 6×6" in told[0]
    assert "540 B" in told[0]
    assert f"{cache / 'images'}" in told[0]
    assert steps == [("decoding images", 5, 5)]


def test_too_little_room_stops_it_before_decoding(files, monkeypatch, decodings):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=539))
    with pytest.raises(DataError, match=r"takes 540 B in .*, where 539 B are free; make room"):
        decoded(files, 6, SILENT)
    assert decodings == []


def test_a_disk_that_fills_while_writing_leaves_nothing_behind(files, cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # an image has 270,000 bytes
    try:
        with pytest.raises(DataError, match=r"cannot be written to .*DOMAINGRAD_CACHE"):
            decoded(files, 300, SILENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert entries(cache) == []


def test_all_unreadable_files_are_found_at_once(files, tmp_path, cache):
    broken = [tmp_path / f"broken{number:02}.png" for number in range(12)]
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        decoded([*files, *broken], 6, SILENT)
    message = str(caught.value)
    assert message.startswith("12 of 17 images cannot be decoded; ")
    assert "skip_unreadable" in message
    assert all(path.name in message for path in broken[:10])
    assert not any(path.name in message for path in broken[10:])
    assert message.endswith("and 2 more")
    assert entries(cache) == []


def test_unreadable_files_are_left_out_and_noted_if_told_so(files, decodings):
    files[1].write_bytes(b"")
    for _ in range(2):  # decoded, then read from the cache
        result = decoded(files, 6, SILENT, skip_unreadable=True)
        assert result.kept == (0, 2, 3, 4)
        expected = torch.stack([decode(files[index], 6) for index in result.kept])
        assert torch.equal(pixels(result), expected)
        (note,) = result.notes
        assert note == f"left out 1 of 5 images, unreadable: {files[1]}"
    assert decodings == [5]


def test_nothing_readable_is_an_error_even_if_told_to_skip(files):
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="5 of 5 images cannot be decoded; none is left"):
        decoded(files, 6, SILENT, skip_unreadable=True)


def test_no_files_are_an_error():
    with pytest.raises(DataError, match="no image files to decode"):
        decoded([], 6, SILENT)


def test_a_cache_that_cannot_be_made_is_named(files, monkeypatch):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(files[0]))
    with pytest.raises(DataError, match=r"cannot be made .*set DOMAINGRAD_CACHE"):
        decoded(files, 6, SILENT)


@pytest.mark.parametrize("name", ["images", "contents.json", "checked"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_entry_is_told_and_decoded_anew(files, cache, name, damage):
    whole, told = pixels(decoded(files, 6, SILENT)), []
    (entry,) = entries(cache)
    place = cache / "images" / entry / name
    content = bytearray(place.read_bytes())
    content[5] ^= 1
    if damage == "remove":
        place.unlink()
    else:
        place.write_bytes(content if damage == "flip" else content[:-1])
    again = decoded(files, 6, News(say=told.append))
    assert torch.equal(pixels(again), whole)
    assert name == "checked" or f"{entry} is damaged" in told[0]


@pytest.mark.parametrize("change", [lambda f: f.truncate(10), lambda f: f.write(b"x")])
def test_images_that_change_while_they_are_used_are_told(files, cache, change):
    result = decoded(files, 6, SILENT)
    (entry,) = entries(cache)
    with (cache / "images" / entry / "images").open("r+b") as file:
        change(file)
    with pytest.raises(DataError, match=r"cannot be read any more .*give the same command again"):
        pixels(result)


def test_a_check_is_spared_while_the_file_is_as_it_was(files, monkeypatch):
    decoded(files, 6, SILENT)
    monkeypatch.setattr(cache_module.hashlib, "file_digest", lambda *_: pytest.fail("read"))
    decoded(files, 6, SILENT)


def test_the_second_to_ask_waits_and_uses_what_the_first_decoded(files, monkeypatch):
    started, may_go_on, waiting = (threading.Event() for _ in range(3))
    decode_each = cache_module.decode_each
    calls, results = [], []

    def slow(files, size):
        calls.append(len(files))
        started.set()
        assert may_go_on.wait(10)
        return decode_each(files, size)

    monkeypatch.setattr(cache_module, "decode_each", slow)
    first = threading.Thread(target=lambda: results.append(decoded(files, 6, SILENT)))
    first.start()
    assert started.wait(10)

    def say(text):
        assert text == "another process is decoding these images; waiting for it"
        waiting.set()

    second = threading.Thread(target=lambda: results.append(decoded(files, 6, News(say=say))))
    second.start()
    assert waiting.wait(10)
    may_go_on.set()
    first.join(10)
    second.join(10)
    assert calls == [5]
    assert torch.equal(pixels(results[0]), pixels(results[1]))


STOPPED_HALFWAY = """
import sys, time
from pathlib import Path
from domaingrad.bench.domains import cache
from domaingrad.bench.domains.data import News
from domaingrad.bench.domains.decoding import decode

def halting(files, size):
    yield decode(files[0], size)
    print("decoding", flush=True)
    time.sleep(60)

cache.decode_each = halting
cache.decoded([Path(name) for name in sys.argv[1:]], 6, News())
"""


def test_after_a_kill_the_next_takes_over(files, cache):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED_HALFWAY, *map(str, files)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"decoding\n"
        (partial,) = entries(cache)
        assert partial.endswith(".partial")
        process.send_signal(signal.SIGKILL)
    result = decoded(files, 6, SILENT)
    assert torch.equal(pixels(result), torch.stack([decode(path, 6) for path in files]))
    assert entries(cache) == [partial.removesuffix(".partial")]


def test_the_cache_says_its_size_and_is_cleared(tmp_path, save, cache):
    assert clear_cache() == 0
    decoded([save(tmp_path / "a.png", 1), save(tmp_path / "b.png", 2)], 6, News())
    pixels = 2 * 3 * 6 * 6
    assert cached_bytes() >= pixels
    before = cached_bytes()
    vectors.kept(["of a test"], ["a", "b"], lambda rows: torch.ones(len(rows), 5), News(), str)
    taken = cached_bytes()
    assert taken >= before + 2 * 5 * 4
    assert clear_cache() == taken
    assert cached_bytes() == 0
    assert not list(cache.glob("*/*"))
    decoded([tmp_path / "a.png"], 6, News())
