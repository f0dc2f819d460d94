"""What only a GPU can show: whether the library is right there, and what a step costs.

    make gpu
    python benchmarks/gpu.py [--minutes 8] [--part NAME] [--device cpu --tiny]

Nothing is downloaded, and nothing but PyTorch and this repository's own packages for a benchmark
need to be installed. Each part runs in a process of its own, which a fault of the device ends
alone, and its lines are on the page as soon as they are there. Where time is short, a part is
stopped at its share of it, and the page says so. Exits with 1 if anything was wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer
from gpu_setting import WRONG, Setting
from timing import RESULTS, environment

ROOT = Path(__file__).parents[1]

PARTS: dict[str, tuple[str, str, float]] = {
    "rules": ("gpu_checks", "Rules in every precision: ‖update − reference‖ / ‖reference‖", 40),
    "compiled": ("gpu_costs", "Cost of a step, bf16, ERM and agreement compiled", 190),
    "modes": ("gpu_checks", "Modes and what surrounds a step, float32", 70),
    "eager": ("gpu_costs", "Cost of a step, bf16, eager", 60),
    "counts": ("gpu_costs", "Kernels and waits of a step, eager", 25),
    "zoo": ("gpu_checks", "The zoo, float64", 65),
}
"""By name: module, title, and its share of the time."""

NOTE = (
    "A part's errors are of the second or third step, against separate backward passes in the same "
    "precision and the equations in NumPy. Costs: forward under bfloat16 autocast, backward and "
    "rule, no optimiser, ERM on the same batch in training mode; a first step holds capture, "
    "compilation and verification; peak is over what the model and its samples take."
)


class Page:
    """Lines that are on disk and on the terminal as soon as they are known."""

    def __init__(self, path: Path | None, head: list[str]) -> None:
        self.path, self.lines = path, []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")
        for line in head:
            self.add(line)

    def add(self, line: str) -> None:
        """At the end."""
        self.lines.append(line)
        typer.echo(line)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def run(name: str, setting: Setting, seconds: float, page: Page) -> None:
    """A part in its process, for so long at most."""
    command = [sys.executable, __file__, "--inside", name, "--device", setting.device]
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [*command, *(["--tiny"] if setting.tiny else [])],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        process_group=0,  # with the processes that compile for it, which hold the pipe, too
    ) as process:
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, stop)
        timer.start()
        assert process.stdout is not None  # a pipe was asked for
        try:
            for line in process.stdout:
                page.add(line.rstrip("\n"))
        except BaseException:
            stop()
            raise
        finally:
            timer.cancel()
    if stopped.is_set():
        page.add(f"\nStopped after {seconds:.0f} s; what is not here was not run.")
    elif process.returncode != 0:
        page.add(f"\n{WRONG}: the process ended with code {process.returncode}.")


def hardware(device: str) -> str:
    """What the device is."""
    if device != "cuda":
        return f"{device}, to test the script; none of its numbers says anything of a GPU."
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    return (
        f"{name}, {memory / 2**30:.0f} GiB; CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}."
    )


def main(
    minutes: Annotated[float, typer.Option(help="Time for all parts together.")] = 7.5,
    part: Annotated[list[str] | None, typer.Option(help="Only these parts.")] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to test the script.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Small models, nothing through Inductor.")] = False,
    out: Annotated[Path | None, typer.Option(help="The page, if not the one in results.")] = None,
    inside: Annotated[str, typer.Option(hidden=True, help="A part, in this process.")] = "",
) -> None:
    """Run the parts; the page of a whole run on a GPU is benchmarks/results/gpu.md."""
    setting = Setting(device, tiny)
    if inside:
        for line in getattr(import_module(PARTS[inside][0]), inside)(setting):
            print(line, flush=True)
        return
    names = part or list(PARTS)
    if unknown := set(names) - PARTS.keys():
        raise typer.BadParameter(f"expected parts of {list(PARTS)}; found {sorted(unknown)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("PyTorch finds no CUDA device; --device cpu --tiny tests this.")
    whole = device == "cuda" and not tiny and part is None
    head = ["# On a GPU\n", "`make gpu`\n", f"{hardware(device)} {environment()}\n", NOTE]
    page = Page(out or (RESULTS / "gpu.md" if whole else None), head)
    start, share = time.monotonic(), sum(PARTS[name][2] for name in names)
    due = 0.0
    for name in names:
        _, title, part_share = PARTS[name]
        due += 60 * minutes * part_share / share
        page.add(f"\n## {title}\n")
        begun = time.monotonic()
        run(name, setting, max(1.0, due - (begun - start)), page)
        page.add(f"\n{time.monotonic() - begun:.0f} s.")
    wrong = sum(WRONG in line for line in page.lines)
    page.add(f"\nLines with something wrong: {wrong}.")
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
