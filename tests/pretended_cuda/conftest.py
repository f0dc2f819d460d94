"""The tests on the device need a process that has it: ``test_pretended_cuda.py`` starts it."""

from .device import is_installed

collect_ignore_glob = [] if is_installed() else ["on_device/*"]
