"""``benchmarks/gpu.py`` on a CPU with tiny sizes: every part, and what becomes of a broken one."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_whole_run_tells_of_every_part(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    # More time than the parts need, so that none is stopped on a busy machine.
    options = ["--device", "cpu", "--tiny", "--minutes", "40", "--out", page]
    command = [sys.executable, BENCHMARKS / "gpu.py", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    text = page.read_text(encoding="utf-8")
    assert text.strip() == run.stdout.strip()
    assert text.endswith("Lines with something wrong: 0.\n")
    _, *parts = text.split("\n## ")
    assert len(parts) == 6
    for part in parts:
        rows = [line for line in part.splitlines() if line.startswith("|")]
        assert len(rows) > 2, part
        assert len({line.count("|") for line in rows}) == 1, part
        assert re.search(r"\n\d+ s\.$", part.partition("\nLines")[0].strip()), part
    rules, compiled, modes, eager, counts, zoo = parts
    assert "| MLP, accumulation, PCGrad |" in rules
    assert "GSNR dropout: learned ratio | moved by" in modes
    for costs in (compiled, eager):
        assert re.search(r"AND-mask \| \d+\.\d s \| \d+\.\d\d ms \| \d+\.\d\d", costs)
    assert re.search(r"\((≤|over) 1.15\)", compiled)
    assert re.search(r"plain training \| \d+ \| 20 \|", counts)
    assert "| right | 10 of 10 |" in zoo


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_a_part_whose_process_dies_is_a_line(gpu: ModuleType, tmp_path: Path) -> None:
    page = gpu.Page(tmp_path / "page.md", ["head"])
    gpu.run("no such part", gpu.Setting("cpu", True), 60.0, page)
    assert re.search(r"head\n\n\*\*wrong\*\*: the process ended with code 1", page.path.read_text())


def test_a_part_without_time_is_stopped(gpu: ModuleType, tmp_path: Path) -> None:
    page = gpu.Page(tmp_path / "page.md", ["head"])
    gpu.run("zoo", gpu.Setting("cpu", True), 0.1, page)
    assert page.path.read_text() == "head\n\nStopped after 0 s; what is not here was not run.\n"


def test_an_error_is_a_cell(gpu: ModuleType) -> None:
    from gpu_setting import WRONG, cell

    def fails() -> str:
        raise ValueError("a | b\nand more")

    assert cell(lambda: "fine") == "fine"
    assert re.fullmatch(
        re.escape(f"{WRONG}: ValueError: a / b (at test_gpu.py:") + r"\d+\)", cell(fails)
    )


def test_without_a_gpu_it_says_what_to_do(gpu: ModuleType) -> None:
    with pytest.raises(gpu.typer.BadParameter, match="--device cpu --tiny"):
        gpu.main()
    with pytest.raises(gpu.typer.BadParameter, match="expected parts of"):
        gpu.main(part=["speed"], device="cpu", tiny=True)
