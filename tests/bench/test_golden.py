"""Numbers of short runs, pinned: a change of the loop, an engine or a method shows here."""

import json

import pytest

from domaingrad.bench.runs.identity import NUMERICS

from . import golden

PINNED = json.loads(golden.PINNED.read_text())


def test_every_run_is_pinned_with_the_version_of_the_numbers():
    """Whoever changes numbers raises NUMERICS, and pins them by `python -m tests.bench.golden`."""
    assert PINNED["numerics"] == NUMERICS
    assert list(PINNED["runs"]) == list(golden.RUNS)


@pytest.mark.parametrize("name", golden.RUNS)
@pytest.mark.filterwarnings("ignore::domaingrad.SinglePassWarning")
@pytest.mark.filterwarnings("ignore::domaingrad.bench.methods.NeverBegunWarning")
def test_a_run_comes_to_its_pinned_numbers(name, tmp_path, monkeypatch):
    library = {"timm:resnet10t": "timm", "resnet18": "torchvision"}.get(golden.RUNS[name].backbone)
    if library is not None:
        pytest.importorskip(library)
    monkeypatch.setenv("DOMAINGRAD_CACHE", "set anew by a run with files")
    found = golden.numbers_of(name, tmp_path / "run")
    pinned = PINNED["runs"][name]
    assert golden.differences(name, found, pinned) == [], (found, pinned)


@pytest.mark.parametrize("key", ["loss", "agreement", "weights", "held out"])
def test_another_number_is_found(key):
    pinned = PINNED["runs"]["and-mask"]
    changed = {**pinned, key: [1.001 * value + 0.03 * (key == "held out") for value in pinned[key]]}
    assert golden.differences("and-mask", changed, pinned) == [key]
