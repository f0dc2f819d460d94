"""Models of several libraries and hand-written ones, for :mod:`tests.engine.test_sweep`."""

from . import written
from .case import Case

CASES: dict[str, Case] = {**written.CASES}
