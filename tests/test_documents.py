"""The code of the pages runs as printed."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import domaingrad as dg
from domaingrad import bench

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_loops_of_the_pages_train(tmp_path):
    torch.manual_seed(0)
    domain, y = torch.arange(96) % 3, torch.randint(2, (96,))
    # All inputs tell the class, so that what is dropped can be made up for.
    x = torch.randn(96, 5) + 2.0 * y[:, None] - 1.0
    (mixed,) = blocks("README.md")
    same, by_domain, _ = blocks("docs/start.md")
    assert same == mixed
    (dropout,) = blocks("docs/gsnr.md")
    watch, _ = blocks("docs/conflict.md")
    watched, separator, plot = watch.partition("dg.inspect.plot_watch")
    plot = separator + plot
    loader = {"loader": DataLoader(TensorDataset(x, y, domain), batch_size=24)}
    for block, loader_or_batches in (
        (mixed, loader),
        (dropout, loader),
        (watched, loader),
        (by_domain, {"batches": {e: (x[domain == e], y[domain == e]) for e in range(3)}}),
    ):
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        scope = {"model": model, "optimizer": optimizer, "F": F, **loader_or_batches}
        exec(mixed.split("for ")[0], scope)
        before = F.cross_entropy(model(x), y).item()
        made, loop = block.split("for ", 1)
        exec(made, scope)
        for _ in range(30):
            exec(f"for {loop}", scope)
        after = F.cross_entropy(model.eval()(x), y).item()
        assert after < 0.5 * before, block
        if block is watched:
            exec(plot.replace("conflict.png", str(tmp_path / "conflict.png")), scope)
    assert (tmp_path / "conflict.png").exists()


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_what_the_pages_say_of_several_processes_runs():
    hook, mixed, sharded = blocks("docs/scale.md")
    x, y = torch.randn(12, 3), torch.arange(12) % 2
    domain = torch.arange(12) // 4
    for block in (hook, mixed, sharded):
        model = nn.Linear(3, 2)
        scope = {
            "model": model, "x": x, "y": y, "domain": domain, "site": 1, "dg": dg, "F": F,
            "DistributedDataParallel": DistributedDataParallel, "fully_shard": fully_shard,
            "batches": {e: (x[domain == e], y[domain == e]) for e in range(3)},
        }  # fmt: skip
        exec(block, scope)
        if "agree." in block:
            assert model.weight.grad is not None, block


@pytest.mark.filterwarnings("ignore")  # what other libraries warn of
def test_the_loops_of_other_libraries_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    domain, y = torch.arange(96) % 3, torch.randint(2, (96,))
    x = torch.randn(96, 5) + 2.0 * y[:, None] - 1.0
    for block in blocks("docs/integrations.md"):
        model = nn.Linear(5, 2)
        scope = {
            "model": model, "optimizer": torch.optim.Adam(model.parameters(), 3e-2), "torch": torch,
            "loader": DataLoader(TensorDataset(x, y, domain), batch_size=24), "dg": dg, "F": F,
        }  # fmt: skip
        before = F.cross_entropy(model(x), y).item()
        made, separator, loop = block.partition("for x, y")
        exec(made, scope)
        for _ in range(30 if separator else 0):
            exec(separator + loop, scope)
        assert F.cross_entropy(model.eval()(x), y).item() < 0.6 * before, block


def test_the_new_rule_is_right():
    scope: dict = {}
    exec(blocks("docs/tutorials/new_rule.md")[0], scope)
    gradients = torch.tensor([[1.0, -2.0, 3.0], [1.0, 1.0, 1.0], [4.0, -1.0, 0.0]])
    update = scope["SignMajority"]()(gradients)
    torch.testing.assert_close(update, torch.tensor([2.0, 0.0, 4 / 3]))


def test_the_new_data_set_can_be_made():
    scope: dict = {}
    page = blocks("docs/tutorials/new_data_set.md")
    (block,) = [each for each in page if "register.data_set" in each]
    exec(block.replace("register.data_set(SHIFTED)", ""), scope)
    data = scope["SHIFTED"].draw(torch.Generator().manual_seed(0))
    assert set(data.domains) == set(scope["SHIFTED"].held_out)
    model = scope["SHIFTED"].recipe.backbone.build(data.preparation.shape, data.outputs)
    assert model(data.domains["left"].tensors[0]).shape == (500, 2)


def test_training_from_python_works_as_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(3, 40, 4, generator=torch.Generator().manual_seed(0))
    scope = {
        "domains": {f"camera-{k}": TensorDataset(x[k], (x[k, :, 0] > 0).long()) for k in range(3)}
    }
    (block,) = blocks("docs/training.md")
    exec(block, scope)
    _, held_out = map(float, capsys.readouterr().out.split()[-2:])
    assert held_out > 0.7
    assert scope["model"].sources == ("camera-0", "camera-1")
    right = scope["probabilities"].argmax(1) == scope["y"]
    assert right.double().mean() > 0.7


def test_the_embeddings_page_is_read_and_its_export_needs_nothing_of_ours(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    save, alone = blocks("docs/embeddings.md")
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    scope = {
        "vectors": generator.normal(labels[:, None], 0.1, (60, 4)), "labels": labels,
        "domains": np.array(["a", "b", "c"])[np.arange(60) // 20], "patients": np.arange(60) // 4,
    }  # fmt: skip
    exec(save, scope)
    quick = {"steps": 20, "checkpoints": 1, "accelerator": "cpu"}
    result = bench.train("mine.npz", "of vectors", hold_out="c", **quick)
    assert result.held_out.score == 1

    for domain in ("a", "b", "c"):
        for name, color in (("cat", (200, 0, 0)), ("dog", (0, 0, 200))):
            (tmp_path / "images" / domain / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.new("RGB", (128, 128), color)
                picture.save(tmp_path / "images" / domain / name / f"{number}.png")
    bench.train(
        "images", "of images", hold_out="c", backbone="mlp", data_options={"size": 128},
        augment=("none",), learning_rate=1e-3, batch=4, **quick,
    )  # fmt: skip
    bench.export("of images", "torchscript", "model.pt")
    Image.new("RGB", (90, 70), (200, 0, 0)).save("new.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(alone, {})
    assert capsys.readouterr().out.split()[-1] == "cat"


def test_no_place_is_left_to_fill_in():
    for page in PAGES:
        assert "<!--" not in page.read_text(encoding="utf-8"), page
