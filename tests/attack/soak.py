"""Random kills: a command is killed again and again, ended, and has to come to the same numbers.

    python -m tests.attack.soak --minutes 10

Each command is killed at a random moment, mostly once its process has written something (SIGKILL,
SIGTERM or SIGINT, of the process alone or of all that it has started), then given again, up to the
end; after a kill some bytes of what was written last may be cut off, as on a machine that loses its
power. Its outcome is compared with one that nobody has killed. A kill counts as one at work if its
process had written something.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from importlib import import_module
from pathlib import Path

from .conftest import weights_in
from .processes import SOURCE, Forked, end_all, start, started_by, wait_until

sys.path.insert(0, str(SOURCE))

from PIL import Image

DIGITS = ["--data", "colored-digits", "--hold-out=-90%", "--accelerator", "cpu"]
SHARE = 0.2
"""Of the time that a command takes, after which it is killed at the latest."""
AT_ONCE = 0.2
"""Share of the kills that may come before anything is written, while processes start or meet."""
MOST = 12
"""Kills of a command before it may end."""
IMPORTED = ["domaingrad.cli.app", "domaingrad.engine.graph.engine", "domaingrad.bench.reports.html",
            "sklearn.datasets"]  # fmt: skip
"""What takes the seconds of a start, in which nothing is at work."""
LAST_SECONDS = 45
"""In which a command that was killed has left no process behind."""


def commands(root):
    """What is killed: command, the folder that it writes, and how long it is let live at most."""
    data = root / "OULU"
    for part, file in (("Train", "1_1_01_1"), ("Train", "1_1_01_2"), ("Test", "1_1_36_1")) * 2:
        for number in range(60):
            place = data / f"{part}_files" / file / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 300), (number, 0, 0)).save(place)
    for number in range(900):
        place = root / "photos" / "abc"[number % 3] / "xy"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number % 256, 60, 90)).save(place)
    embed = ["embed", "--data", root / "photos", "--size", 32, "--backbone", "squeezenet"]
    several = ["--trials", 1, "--steps", 200, "--jobs"]
    digits = ["train", *DIGITS, "--method", "sand-mask", "--steps", 600, "--checkpoints", 60]
    compare = ["compare", "--data", "spirals", "--methods", "erm,coral", *several]
    return {
        "train": [*digits, "--out"],
        "compare": [*compare, 1, "--out"],
        "ablate": ["ablate", "gsnr", "--data", "spirals", *several, 1, "--steps", 15, "--out"],
        "sweep": [
            "sweep", "--data", "spirals", "--methods", "erm", "--draws", 2, *several, 1,
            "--accelerator", "cpu", "--out",
        ],
        "embed": [*embed, "--weights", weights_in(root), "--accelerator", "cpu", "--out"],
        "prepare-faces": ["prepare-faces", "oulu-npu", data, "--frames", 50],
        "train --devices 2": [
            "train", *DIGITS, "--steps", 300, "--checkpoints", 30, "--devices", 2, "--out",
        ],
        "compare --jobs 2": [*compare, 2, "--out"],
    }  # fmt: skip


ANEW = ("train --devices 2", "compare --jobs 2")
"""Started as processes of their own; the others are copies of this one, which start at once."""


def begin(kind, line, root):
    line = [*line, root / "out" / ("a.npz" if kind == "embed" else "")]
    own = {"TMPDIR": str(root), "DOMAINGRAD_CACHE": str(root / "cache")}
    return start(line, str(root), **own) if kind in ANEW else Forked(line, root / "said", **own)


def written(root):
    """Files below a folder, and how they are."""
    found = set()
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            if path.name != "said":
                found.add((path, path.stat().st_size, path.stat().st_mtime_ns))
    return found


def has_written(root, before):
    return written(root) != before


def ends_itself(process, begun, draw, lifetime):
    """Let a process live for a while; whether it has ended before it is to be killed."""

    def has_ended():
        return process.poll() is not None

    if draw.random() >= AT_ONCE:
        wait_until(lambda: has_ended() or begun(), lifetime / SHARE)
    return wait_until(has_ended, draw.uniform(0.05, lifetime))


def outcome(out):
    """Numbers and pictures of what was written, without times and places."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if ".damaged" in name:  # what was torn is kept beside what was done again
            continue
        if path.name == "run.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in line.items() if k != "sum"} for line in lines[:-1]]
        elif path.name in ("held_out.jsonl", "results.csv", "checkpoints.csv") or path.suffix in (
            ".safetensors", ".png", ".json", ".npz",
        ):  # fmt: skip
            content = path.read_bytes()
            # A report says where it was written, and a plan by which code.
            found[name] = "plan" if path.name == "plan.json" else content
    return found


def torn(out, draw):
    """Cut off the end of a file of records, as where the disk had less than was told."""
    files = [path for path in out.rglob("*.jsonl") if path.stat().st_size]
    if files:
        path = draw.choice(files)
        path.write_bytes(path.read_bytes()[: -draw.randint(1, 40)])


def survive(kind, line, root, draw, lifetime, deadline):
    """Kill a command until it ends by itself: kills, those at work, and what was wrong."""
    out, kills, at_work, mark = root / "out", 0, 0, str(root)
    while True:
        before = written(root)
        process = begin(kind, line, root)
        last = kills >= MOST or time.monotonic() > deadline
        begun = partial(has_written, root, before)
        if last or ends_itself(process, begun, draw, lifetime):
            said, _ = process.communicate()
            return kills, at_work, said if process.returncode else None
        how = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        # Only one of several dies, or all do.
        (os.kill if draw.random() < 0.7 else os.killpg)(process.pid, how)
        kills += 1
        at_work += begun()
        if not wait_until(lambda p=process: p.poll() is not None, LAST_SECONDS):
            end_all(mark)
            return kills, at_work, f"it lived on after {how.name}"
        if not wait_until(lambda: not started_by(mark), LAST_SECONDS):
            end_all(mark)
            return kills, at_work, f"processes were left after {how.name}"
        said, _ = process.communicate()
        if "Traceback" in said:
            return kills, at_work, said
        if draw.random() < 0.3:
            torn(out, draw)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's & has ignored
    for module in IMPORTED:  # before this process is copied
        import_module(module)

    draw, deadline = random.Random(told.seed), time.monotonic() + 60 * told.minutes
    tried, survived, whole, seconds, faults = Counter(), Counter(), {}, {}, 0
    busy = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        every = commands(root)
        while time.monotonic() < deadline:
            kind = min(every, key=lambda kind: tried[kind] * (4 if kind in ANEW else 1))
            place = Path(tempfile.mkdtemp(dir=root))
            if kind not in whole:
                began = time.monotonic()
                process = begin(kind, every[kind], place)
                said, _ = process.communicate()
                if process.returncode:
                    sys.exit(f"{kind} fails without a kill:\n{said}")
                whole[kind], seconds[kind] = outcome(place / "out"), time.monotonic() - began
                print(f"{kind}: {seconds[kind]:.1f} s without a kill", flush=True)
                tried[kind] = 0
                continue
            kills, at_work, wrong = survive(
                kind, every[kind], place, draw, SHARE * seconds[kind], deadline
            )
            if wrong is None and (again := outcome(place / "out")) != whole[kind]:
                differing = [n for n in again | whole[kind] if again.get(n) != whole[kind].get(n)]
                wrong = f"other numbers in {differing}"
            tried[kind] += kills
            busy[kind] += at_work
            survived[kind] += kills * (wrong is None)
            faults += wrong is not None
            print(f"{kind}: {kills} kills, {at_work} at work, {wrong or 'survived'}", flush=True)
            shutil.rmtree(place, ignore_errors=True)
    for kind, kills in tried.items():
        print(f"{kind}: {survived[kind]} of {kills} kills survived, {busy[kind]} at work")
    print(f"{survived.total()} of {tried.total()} kills survived, {faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
