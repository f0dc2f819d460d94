"""Models of several libraries and hand-written ones, for :mod:`tests.engine.test_sweep`."""

from . import language, vision, written
from .case import Case

CASES: dict[str, Case] = {**written.CASES, **vision.CASES, **language.CASES}
