"""docs/methods.md says something of every method, and its code runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from domaingrad.bench.methods import PUBLISHED, listed_methods

PAGE = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", listed_methods())
def test_every_listed_method_has_a_paragraph(name):
    assert re.search(rf"^\*\*[^*]*`{re.escape(name)}`|^\*\*.*\*\*`{re.escape(name)}`", PAGE, re.M)


def test_every_published_reading_is_in_the_table():
    table = PAGE.partition("| method | as meant")[2].partition("\n\n")[0]
    for each in PUBLISHED:
        assert f"`{each.meant.name}`" in table


@pytest.mark.parametrize(
    ("words", "can"),
    [
        ("Domains.", lambda m: m.requires.min_domains == 1),
        ("Several processes", lambda m: m.requires.sharding is not None),
    ],
)
def test_what_the_page_says_that_methods_can_do_is_so(words, can):
    (item,) = [each for each in re.split(r"\n- ", PAGE) if each.startswith(f"**{words}")]
    told = set(re.findall(r"`([a-z0-9+-]+)`", item.split("\n\n")[0])) - {"--devices"}
    found = {name for name, method in listed_methods().items() if can(method)}
    rules = {"and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad", "gsnr-dropout-fixed"}
    assert told - rules == found - rules


def test_the_federated_rounds_of_the_page_train():
    torch.manual_seed(0)
    y = torch.randint(2, (3, 32))
    x = torch.randn(3, 32, 5) + 2.0 * y[..., None] - 1.0
    model = nn.Linear(5, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    before = F.cross_entropy(model(x[0]), y[0]).item()
    exec(
        block,
        {"sites": list(zip(x, y, strict=True)), "model": model, "optimizer": optimizer, "F": F},
    )
    assert F.cross_entropy(model(x[0]), y[0]).item() < 0.5 * before
