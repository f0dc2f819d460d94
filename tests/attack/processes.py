"""Commands as processes that may be killed, and what is left of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
STARTED_BY = "DOMAINGRAD_ATTACK"
"""In the environment of a command and of all that it starts, whoever their parent becomes."""


def start(line, mark, **environment):
    """A command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "domaingrad", *map(str, line)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", STARTED_BY: mark}
        | environment,
    )  # fmt: skip


class Forked:
    """A command in a copy of this process, which has imported everything already."""

    def __init__(self, line, said, **environment):
        self._said, self.returncode = Path(said), None
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(environment)
            self._run([str(part) for part in line])

    def _run(self, line):
        code = 70
        try:
            os.setsid()
            file = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(file, stream)
            sys.argv = ["domaingrad", *line]
            from domaingrad.cli import main

            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:  # noqa: BLE001 - what nobody has caught is what is looked for
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def poll(self):
        """Its status, once it has ended."""
        if self.returncode is None:
            number, status = os.waitpid(self.pid, os.WNOHANG)
            if number:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def communicate(self):
        """What it has said, once it has ended."""
        while self.poll() is None:
            time.sleep(0.02)
        return self._said.read_text(errors="replace"), None


def started_by(mark):
    """Numbers of the processes that are alive with this mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "environ").read_bytes().split(b"\0")
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{STARTED_BY}={mark}".encode() in told and state != "Z":
            found.append(int(place.name))
    return found


def wait_until(true, seconds):
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def end_all(mark):
    """Leave nothing behind, whatever a test has come to."""
    for number in started_by(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def listening(number):
    """Addresses at which a process listens, in hexadecimal."""
    nodes = set()
    for place in Path(f"/proc/{number}/fd").glob("*"):
        try:
            nodes.add(os.readlink(place).removeprefix("socket:[").rstrip("]"))
        except OSError:
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{number}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in nodes:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
