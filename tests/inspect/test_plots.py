"""What the pictures of a conflict show."""

import matplotlib.image
import pytest
import torch
from torch import nn

from domaingrad.inspect import ConflictWatch, conflict, plot_conflict, plot_watch


def seen(every=1, batches=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    watch = ConflictWatch(model, every=every)
    x, y, domain = torch.randn(12, 3), torch.arange(12) % 2, torch.arange(12) // 4

    def losses(out):
        return nn.functional.cross_entropy(out, y, reduction="none")

    for _ in range(batches):
        watch(x, losses, domain)
    return conflict(model, x, losses, domain), watch


def test_cosines_and_layers_are_drawn_with_their_names(tmp_path):
    found, _ = seen()
    plot_conflict(found, tmp_path / "plot.svg", ["north", "south", "west"])
    # Text is drawn as paths, with what it says in a comment.
    drawn = (tmp_path / "plot.svg").read_text()
    for name in ("north", "south", "west", "mean cosine", "sign agreement, %", "whole model"):
        assert f"<!-- {name} -->" in drawn
    assert drawn.count("<!-- 1.00 -->") >= 3


def test_a_watch_is_drawn_through_training(tmp_path):
    _, watch = seen(every=2, batches=7)
    plot_watch(watch, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for name in ("mean cosine, whole model", "sign agreement, %, layer by layer", "batch"):
        assert f"<!-- {name} -->" in drawn
    plot_watch(watch, tmp_path / "plot.png")
    assert matplotlib.image.imread(tmp_path / "plot.png").std() > 0.1


def test_what_cannot_be_drawn_is_told(tmp_path):
    found, _ = seen()
    with pytest.raises(ValueError, match="expected 3 names of domains; found 2"):
        plot_conflict(found, tmp_path / "plot.svg", ["north", "south"])
    with pytest.raises(ValueError, match="has seen no batch"):
        plot_watch(ConflictWatch(nn.Linear(2, 2)), tmp_path / "plot.svg")
