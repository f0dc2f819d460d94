"""Whatever ends a command, and whenever: no process of it is left, and nothing listens outside."""

import inspect
import os
import signal
import sys
import time
import weakref

import pytest
from PIL import Image

from domaingrad import cli
from domaingrad.bench.runs import meeting, ranks
from domaingrad.bench.runs.interrupts import interrupted_after
from domaingrad.bench.runs.trainer import Trainer

from .conftest import TRAIN, weights_in
from .invoking import command
from .processes import LOOPBACK, end_all, listening, start, started_by, wait_until
from .test_damage import numbers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TWO = ["train", "--data", "rotated-digits", "--hold-out", "0°", "--steps", 20_000, "--batch", 3,
       "--checkpoints", 2000, "--accelerator", "cpu", "--devices", 2, "--out"]  # fmt: skip
SECONDS = 30
"""In which a process ends; it has its grace, and a machine at work on other things."""


@pytest.fixture
def mark(tmp_path):
    yield str(tmp_path)
    end_all(str(tmp_path))


def first_steps(out):
    return (out / "run.jsonl").exists


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["as the second is there", "as it meets", "as they train"])
def test_the_others_end_with_the_first_process(tmp_path, mark, how, when):
    out = tmp_path / "run"
    first = start([*TWO, out], mark, TMPDIR=str(tmp_path))
    moment = {
        "as the second is there": lambda: len(started_by(mark)) == 2,
        "as it meets": lambda: list(tmp_path.glob("domaingrad-*/here-*")),
        "as they train": first_steps(out),
    }[when]
    assert wait_until(moment, 90), first.communicate()
    os.kill(first.pid, how)
    assert wait_until(lambda: not started_by(mark), SECONDS)
    said, _ = first.communicate()
    assert "Traceback" not in said


@pytest.mark.slow
def test_processes_of_one_machine_listen_on_loopback_alone(tmp_path, mark):
    out = tmp_path / "run"
    with start([*TWO, out], mark):
        try:
            assert wait_until(first_steps(out), 90)
            both = started_by(mark)
            found = set().union(*map(listening, both))
        finally:
            end_all(mark)
    assert len(both) == 2
    assert found <= LOOPBACK


def test_an_interrupt_takes_effect_after_what_is_under_way_wherever_it_is_heard():
    done = []

    class Held:
        pass

    def heard(_):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupted_after():  # noqa: PT012
        held = Held()
        callback = weakref.ref(held, heard)  # in which an exception would be lost
        del held
        done.append(callback)
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_a_callback_loses_takes_effect_at_the_next_step(monkeypatch, capsys):
    class Held:
        pass

    monkeypatch.setattr(sys, "unraisablehook", cli.unraisable)
    before = signal.signal(signal.SIGINT, cli.Interrupt())
    try:
        held = Held()
        callback = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGINT))
        del held
        assert callback() is None
        with pytest.raises(KeyboardInterrupt), interrupted_after():
            pytest.fail("it went on")
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""


def test_a_second_interrupt_takes_effect_at_once():
    with pytest.raises(KeyboardInterrupt), interrupted_after():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")


@pytest.mark.parametrize("step", [0, 1])
def test_a_training_that_is_interrupted_within_a_step_comes_to_the_same_numbers(
    good, tmp_path, monkeypatch, step
):
    line = [*TRAIN, *good["train command"], "--hold-out", "c", "--json", "--out"]
    whole = command([*line, good["run"]])
    plain, seen = Trainer.step, []

    def interrupted(trainer):
        seen.append(trainer.steps_done)
        if seen == [*range(step + 1)]:
            signal.raise_signal(signal.SIGINT)
        return plain(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert command([*line, tmp_path / "run"]).exit_code == 130
    assert len(seen) == step + 1
    again = command([*line, tmp_path / "run"])
    assert again.exit_code == 0, again.output
    assert numbers(again) == numbers(whole)


def test_nothing_is_unpickled_that_other_processes_send():
    for module in (ranks, meeting):
        source = inspect.getsource(module)
        assert "pickle" not in source
        assert "_object" not in source.replace("no object", "")


SEEN = ["--accelerator", "cpu", "--data", "{photos}", "--size", 64]
LONG = [
    (["compare", "--data", "spirals", "--methods", "erm", "--steps", 5000, "--jobs", 2, "--out"],
     "out/**/*.jsonl"),
    (["ablate", "gsnr", "--data", "spirals", "--steps", 5000, "--jobs", 2, "--out"],
     "out/**/*.jsonl"),
    (["sweep", "--data", "spirals", "--methods", "erm", "--jobs", 1, "--steps", 5000, "--out"],
     "out/**/*.jsonl"),
    (["fas-synthetic", "--subjects", 200], "out/**/*.jpg"),
    (["prepare-faces", "oulu-npu", "{videos}", "--frames", 60], "out/**/*.png"),
    (["train", *SEEN, "--hold-out", "a", "--backbone", "mnist-cnn", "--out"],
     "cache/images/*.partial/*"),
    (["embed", *SEEN, "--backbone", "squeezenet", "--weights", "{weights}", "--out"],
     "cache/embeddings/*/0-128"),
]  # fmt: skip
"""Commands that take a while, and what there is once they are at work."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Videos and photographs, enough of them that work upon them takes seconds."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(2400):
        video = f"Train_files/1_1_{number // 60:02}_1"
        places = [root / "videos" / video, root / "photos" / "abc"[number % 3] / "xy"[number % 2]]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (200, 200), (number % 256, 9, 9)).save(place / f"{number}.png")
    return {"videos": root / "videos", "photos": root / "photos", "weights": weights_in(root)}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("line", "sign"), LONG, ids=[line[0] for line, _ in LONG])
def test_an_interrupted_command_says_so_and_leaves_no_process(
    tmp_path, mark, how, line, sign, pictures
):
    line = [pictures[part.strip("{}")] if str(part).startswith("{") else part for part in line]
    out = tmp_path / "out" / ("a.npz" if line[0] == "embed" else "")
    process = start([*line, out], mark, DOMAINGRAD_CACHE=str(tmp_path / "cache"))
    assert wait_until(lambda: any(tmp_path.glob(sign)), 90), process.communicate()
    time.sleep(0.2)
    os.kill(process.pid, how)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert wait_until(lambda: not started_by(mark), SECONDS)
