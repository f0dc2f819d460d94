"""Commands in this process, with a deadline, and what an end in good order looks like."""

import contextlib
import shlex
import signal
import warnings

from typer.testing import CliRunner

from domaingrad.cli.app import app

DEADLINE = 60
"""Seconds after which a command hangs; a call of one takes less than one."""


class Hangs(BaseException):
    """Past the deadline."""


@contextlib.contextmanager
def deadline(seconds=DEADLINE):
    def ring(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(line):
    """Run a command line, given as a text or in parts."""
    parts = shlex.split(line) if isinstance(line, str) else [str(part) for part in line]
    with deadline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(app, parts)


def require_clear_end(result, said):
    """No traceback, a status that is not 0, one line that says what is wrong."""
    shown = result.output[-2000:]
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        f"{type(result.exception).__name__}: {result.exception}\n{shown}"
    )
    assert result.exit_code != 0, f"ended with status 0:\n{shown}"
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    boxed = "Usage:" in result.stderr  # what the parser itself refuses
    assert boxed or len(errors) == 1, shown
    text = " ".join(result.stderr.split())
    assert said.lower() in text.lower().replace(" │ │ ", " "), f"expected {said!r} in:\n{shown}"
