"""The code in README and CONTRIBUTING runs as printed."""

import re
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_loops_of_the_readme_train():
    torch.manual_seed(0)
    x, domain = torch.randn(96, 5), torch.arange(96) % 3
    y = (x[:, 0] > 0).long()
    mixed, by_domain = blocks("README.md")
    for block, loader_or_batches in (
        (mixed, {"loader": DataLoader(TensorDataset(x, y, domain), batch_size=24)}),
        (by_domain, {"batches": {e: (x[domain == e], y[domain == e]) for e in range(3)}}),
    ):
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        scope = {"model": model, "optimizer": optimizer, "F": F, **loader_or_batches}
        exec(mixed.split("for ")[0], scope)
        before = F.cross_entropy(model(x), y).item()
        for _ in range(30):
            exec(block, scope)
        assert F.cross_entropy(model(x), y).item() < 0.5 * before


def test_the_rule_of_contributing_is_right():
    scope: dict = {}
    exec(blocks("CONTRIBUTING.md")[0], scope)
    gradients = torch.tensor([[1.0, -2.0, 3.0], [1.0, 1.0, 1.0], [4.0, -1.0, 0.0]])
    update = scope["SignMajority"]()(gradients)
    torch.testing.assert_close(update, torch.tensor([2.0, 0.0, 4 / 3]))


def test_the_data_set_of_contributing_can_be_made():
    scope: dict = {}
    exec(blocks("CONTRIBUTING.md")[1], scope)
    domains = scope["SHIFTED"].make(torch.Generator().manual_seed(0))
    assert set(domains) == set(scope["SHIFTED"].held_out)
    assert scope["SHIFTED"].build_model(domains)(domains["left"].tensors[0]).shape == (500, 2)


def test_no_place_is_left_to_fill_in():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/semantics.md"):
        assert "<!--" not in (ROOT / name).read_text(encoding="utf-8"), name
