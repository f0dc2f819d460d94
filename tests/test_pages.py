"""The site is whole, its commands are known, its other code and the examples run."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import domaingrad as dg
from domaingrad.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
}
BY_DOCUMENTS = {
    "README.md", "docs/conflict.md", "docs/embeddings.md", "docs/gsnr.md", "docs/integrations.md",
    "docs/scale.md", "docs/start.md", "docs/training.md", "docs/tutorials/new_data_set.md",
    "docs/tutorials/new_method.md", "docs/tutorials/new_rule.md",
}  # fmt: skip
"""Pages whose code is run by tests/test_documents.py and tests/cli/test_plugins.py."""
BY_THEMSELVES = ("docs/rules.md", "docs/tutorials/embeddings.md")


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def scope() -> dict:
    """What the loops of the pages take for granted."""
    torch.manual_seed(0)
    domain, y = torch.arange(24) % 3, torch.randint(2, (24,))
    x = torch.randn(24, 5)
    model = nn.Linear(5, 2)
    return {
        "dg": dg, "torch": torch, "F": F, "model": model, "x": x, "y": y, "domain": domain,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "loader": DataLoader(TensorDataset(x, y, domain), batch_size=12),
    }  # fmt: skip


def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mask = (tmp_path / "reference" / "domaingrad.rules.ANDMask.html").read_text(encoding="utf-8")
    assert "update = mask" in mask
    shown = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    fetched = re.compile(
        r"<(?:script|img|source)[^>]* src=\"https?:|<link[^>]*stylesheet[^>]*https?:"
    )
    assert not [page for page in shown if fetched.search(page)]


def commands() -> list[tuple[str, str]]:
    """Every command line of `domaingrad` in a block of a shell, and in running text."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "domaingrad" in words[:5] and "…" not in words and "git" not in words:
                    start = words.index("domaingrad")
                    found.append((page, shlex.join(words[start:])))
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_the_command_line_knows_what_the_pages_say(page, line):
    command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    context = command.make_context("domaingrad", words[:0], resilient_parsing=True)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, line
        command, words = command.commands[words[0]], words[1:]
    command.make_context(line, words, parent=context)  # raises where an option is not known


def test_every_page_with_code_is_run():
    with_code = {page for page in PAGES if blocks(page)}
    here = {"docs/from_torchjd.md", "docs/gpu.md", "docs/methods.md", "docs/semantics.md"}
    here |= {"docs/tutorials/table.md", *BY_THEMSELVES}
    assert with_code == BY_DOCUMENTS | here


@pytest.mark.parametrize("page", BY_THEMSELVES)
def test_code_that_stands_for_itself_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here: dict = {}
    for block in blocks(page):
        exec(block, here)
    if "right" in here:  # far above chance, since the vectors hold the class
        assert here["right"].double().mean() > 0.8


def test_torchjd_gives_the_update_that_its_page_says():
    pytest.importorskip("torchjd")
    (block,) = blocks("docs/from_torchjd.md")
    here: dict = {}
    exec(block, here)
    assert here["ours"].weight.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore")  # of a CUDA that is not there
def test_the_lines_on_compilation_and_precision_run(monkeypatch):
    compiled, half = blocks("docs/gpu.md")
    here = scope() | {"agree": None}
    exec(
        compiled.replace("torch.compile(model)", "torch.compile(model, backend='aot_eager')"), here
    )
    first = here["model"].weight.grad.clone()
    here["model"].zero_grad()
    exec(half, here)
    torch.testing.assert_close(here["model"].weight.grad, first, rtol=0.1, atol=0.02)
    _, scaled = blocks("docs/semantics.md")
    here = scope()
    exec(scaled, here)
    assert not torch.equal(here["model"].weight, scope()["model"].weight)


def test_the_operator_of_the_semantics_page_passes_at_once():
    library = torch.library.Library("mylib", "FRAGMENT")
    library.define("scale(Tensor x) -> Tensor")
    library.impl("scale", lambda x: 2 * x, "CompositeExplicitAutograd")
    operator, _ = blocks("docs/semantics.md")
    exec(operator, {"torch": torch})
    from domaingrad.engine.graph.operators import registry

    assert any("mylib" in str(known) for known in registry.RULES)


def test_a_round_of_sites_is_a_step():
    (block,) = blocks("docs/methods.md")
    here = scope()
    here["sites"] = [
        (here["x"][here["domain"] == e], here["y"][here["domain"] == e]) for e in range(3)
    ]
    before = here["model"].weight.detach().clone()
    exec(block.replace("range(100)", "range(2)"), here)
    assert not torch.equal(here["model"].weight, before)


def test_a_look_at_one_batch_prints_the_layers(capsys):
    _, looked = blocks("docs/conflict.md")
    here = scope()
    exec(looked, here | {"model": nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["0", "2"]


def test_the_table_of_the_tutorial_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for site in ("cleveland", "hungarian", "switzerland", "va"):
        row = ",".join(["1.0"] * 13)
        (tmp_path / f"processed.{site}.data").write_text(f"{row},0\n{row},3\n")
    (block,) = blocks("docs/tutorials/table.md")
    exec(block, {})
    header, *rows = (tmp_path / "heart.csv").read_text().splitlines()
    assert header.endswith("thal,site,disease")
    assert [row.split(",")[-2:] for row in rows[:2]] == [["cleveland", "no"], ["cleveland", "yes"]]


def test_messages_of_the_troubleshooting_page_are_in_the_source():
    said = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("src/**/*.py"))
    said = re.sub(r"\"\s*\n\s*f?\"", "", said)  # adjacent texts are one
    rows = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(rows) > 20
    for message in set(rows) - {"No such option: -9"}:  # of the library of the command line
        assert message in said, message


def run(script: str, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


TINY = {
    "own_loop.py": ["--steps", "2"],
    "compiled_loop.py": ["--steps", "2", "--width", "8", "--backend", "aot_eager"],
    "lightning_loop.py": ["--epochs", "1"],
    "embeddings_head.py": ["--steps", "2"],
}


@pytest.mark.filterwarnings("ignore")  # what other libraries warn of
@pytest.mark.parametrize("script", sorted(TINY))
def test_an_example_runs(script, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(script, monkeypatch, *TINY[script])
    assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_the_embeddings_example_reads_a_file(monkeypatch, capsys, tmp_path):
    label, site = np.arange(40) % 2, np.array(["a", "b", "c", "d"])[np.arange(40) // 10]
    np.savez(tmp_path / "v.npz", embeddings=np.eye(2)[label], label=label, domain=site)
    run("embeddings_head.py", monkeypatch, str(tmp_path / "v.npz"), "--held-out", "b")
    assert "b, held out: AND-mask 100.0 %" in capsys.readouterr().out


def test_the_example_of_two_processes_drops_the_shortcut():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(ROOT / "examples" / "two_processes.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mechanism, shortcut = map(float, re.findall(r"\d+\.\d+", done.stdout))
    assert mechanism > 4 * shortcut


def test_the_example_of_a_rule_is_also_a_plug_in(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "new_rule.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[2.0, 0.0]")


def test_every_example_is_run():
    ran = {*TINY, "two_processes.py", "new_rule.py"}
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == ran


def test_the_readme_fits_on_a_page():
    assert len(PAGES["README.md"].splitlines()) <= 130
    assert PAGES["README.md"].index("agree.backward") < PAGES["README.md"].index("pip install")


def helps() -> dict[str, typer.core.TyperCommand]:
    """Every command by the words that call it."""
    found, waiting = {}, [("domaingrad", typer.main.get_command(app))]
    for words, command in waiting:
        if hasattr(command, "commands"):
            waiting += [(f"{words} {name}", each) for name, each in command.commands.items()]
        else:
            found[words] = command
    return found


@pytest.mark.parametrize("words", helps())
def test_the_help_of_a_command_has_an_example_that_it_knows(words):
    command = helps()[words]
    examples = re.findall(rf"- `{re.escape(words)}([^`]*)`", command.help)
    assert examples, words
    for example in examples:
        plain = example.partition(" > ")[0]
        command.make_context(words, shlex.split(plain))  # raises where an option is not known


def test_the_settings_of_a_training_stand_under_headings():
    panels = {each.name: each.rich_help_panel for each in helps()["domaingrad train"].params}
    assert (panels["target"], panels["backbone"], panels["accelerator"]) == (
        "Data", "Model", "Machine",
    )  # fmt: skip
    assert panels["hold_out"] is None  # what a beginner needs comes first, under Options
