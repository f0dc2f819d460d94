"""What a run's key depends on: its method's own code, a version of the numbers, no other code."""

import importlib
import json
import sys

import pytest

from domaingrad.bench.methods import METHODS
from domaingrad.bench.runs import identity
from domaingrad.bench.runs.identity import code_of
from domaingrad.bench.runs.settings import TrainConfig, deciding

METHOD = '''
"""A method."""
from .helper import LEAST


class Mine:
    """It does."""

    def objective(self, batches):
        return LEAST  # all there is
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A plug-in of two modules and an unrelated third; gives the hash of its method as it is."""
    folder = tmp_path / "plugged"
    folder.mkdir()
    files = {"__init__": "", "mine": METHOD, "helper": "LEAST = 1\n", "other": "A = 1\n"}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def hashed(**changed):
        for name, text in changed.items():
            (folder / f"{name}.py").write_text(text)
        for name in [each for each in sys.modules if each.startswith("plugged")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return code_of(importlib.import_module("plugged.mine").Mine)

    yield hashed
    for name in [each for each in sys.modules if each.startswith("plugged")]:
        del sys.modules[name]


def test_comments_docstrings_and_other_modules_do_not_count(package):
    before = package()
    assert package(mine=METHOD.replace("It does", "It mends").replace("all", "more")) == before
    assert package(other="A = 2\n") == before


def test_the_method_and_what_its_module_imports_of_its_package_count(package):
    before = package()
    assert package(mine=METHOD.replace("return LEAST", "return 2 * LEAST")) != before
    assert package(mine=METHOD, helper="LEAST = 2\n") != before
    assert package(helper="LEAST = 1\n") == before


def test_methods_of_this_package_have_code_of_their_own():
    erm, gsnr = METHODS["erm"], METHODS["gsnr-dropout"]
    assert code_of(type(erm), erm.code) != code_of(type(gsnr), gsnr.code)
    # Rules are of the numbers that NUMERICS stands for.
    assert code_of(type(METHODS["and-mask"]), METHODS["and-mask"].code) == code_of()


def test_a_method_is_known_by_its_source_and_that_of_its_own_bases(monkeypatch):
    erm = METHODS["erm"].code
    before, told = code_of(erm), []
    source = identity.inspect.getsource

    def seen(kind):
        told.append(kind.__name__)
        return source(kind)

    monkeypatch.setattr(identity.inspect, "getsource", seen)
    assert code_of(erm) == before
    assert told == ["ERMLearner"]


def test_what_is_left_at_its_default_does_not_decide():
    """So that a setting which a later release adds makes no other run of an old one."""
    assert deciding({"dropout": 0.0, "trial": 0, "plugins": ["a"], "made_by": {"torch": "2"}}) == {}
    written = {"dropout": 0.1, "data_options": {"size": 64, "target": None}, "decided_by": {"n": 1}}
    assert deciding(written) == {
        "dropout": 0.1, "data_options": {"size": 64}, "decided_by": {"n": 1},
    }  # fmt: skip
    assert json.dumps(deciding(vars(TrainConfig("spirals", "x")) | {"data_options": {}}))
