"""What a run's key depends on: its method's own code, a version of the numbers, no other code."""

import importlib
import json
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    ("module", "known"), [("coral", {"coral"}), ("distances", {"coral"}), ("irm", {"irm"})]
)
def test_a_method_is_known_by_its_module_and_what_that_imports_of_methods(
    monkeypatch, tmp_path, module, known
):
    before = {name: code_of(METHODS[name].code) for name in ("coral", "irm", "erm")}
    file_of, name = identity._file, f"domaingrad.bench.methods.{module}"
    copy = tmp_path / "copy.py"
    monkeypatch.setattr(
        identity, "_file", lambda asked: str(copy) if asked == name else file_of(asked)
    )
    source = Path(file_of(name)).read_text()
    for added, changed in (("\n# a comment\n", set()), ("\ndef more():\n    return 1\n", known)):
        copy.write_text(source + added)
        after = {other: code_of(METHODS[other].code) for other in before}
        assert {other for other in before if after[other] != before[other]} == changed


def test_what_is_left_at_its_default_does_not_decide():
    """So that a setting which a later release adds makes no other run of an old one."""
    assert deciding({"dropout": 0.0, "trial": 0, "plugins": ["a"], "made_by": {"torch": "2"}}) == {}
    written = {"dropout": 0.1, "data_options": {"size": 64, "target": None}, "decided_by": {"n": 1}}
    assert deciding(written) == {
        "dropout": 0.1, "data_options": {"size": 64}, "decided_by": {"n": 1},
    }  # fmt: skip
    assert json.dumps(deciding(vars(TrainConfig("spirals", "x")) | {"data_options": {}}))
