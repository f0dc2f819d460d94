"""Runs the tests of ``on_device/`` in a process with a pretended CUDA device.

    python -m tests.pretended_cuda [arguments of pytest]
    python -m tests.pretended_cuda --rewrite

``--rewrite`` runs all of them and writes what they measured as the new ``counts.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .device import build, install

ROOT = Path(__file__).parents[2]
ON_DEVICE = Path(__file__).with_name("on_device")


def main(arguments: list[str]) -> int:
    """Build the device if need be, install it, and run pytest."""
    directory = ROOT / ".pytest_cache" / "pretended_cuda"
    directory.mkdir(parents=True, exist_ok=True)
    install(build(directory))
    import pytest

    from .table import Table

    rewrite = arguments == ["--rewrite"]
    own = ["-p", "no:cacheprovider", "-p", "no:logging"]  # Dynamo's own traces are logged, too
    own += ["-o", "pythonpath=. benchmarks", "-o", f"testpaths={ON_DEVICE}"]
    return pytest.main(own if rewrite else own + arguments, plugins=[Table(rewrite)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
