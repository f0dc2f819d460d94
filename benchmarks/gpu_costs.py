"""What a step costs on a device: parts of ``gpu.py``."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from gpu_setting import WRONG, Setting, cell
from models import ViT, resnet18, resnet50
from steps import Batch, batch
from timing import Timing, Way, measure
from torch import nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import domaingrad as dg
from domaingrad.rules import Rule
from tests.pretended_cuda.on_device.batches import CLASSES, NETWORKS, RULES, mixed, mixed_batch

MIB = 2**20
STEPS, ROUNDS = 5, 8
"""A way that is timed is so many steps, between two waits for the device."""
TABLE = Path(__file__).parents[1] / "tests" / "pretended_cuda" / "counts.json"


@dataclass(frozen=True)
class Case:
    """A model, images, and the samples of all domains together."""

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    target: float | None = None
    """What AND-mask compiled may take at most, times ERM compiled, for three domains."""

    def batch(self, setting: Setting, domains: int) -> Batch:
        """Samples of equal domains, on the device."""
        samples = domains * max(1, self.samples // domains)
        made = batch(self.model(), self.shape, domains, samples, CLASSES)
        x, y = made.x.to(setting.device), made.y.to(setting.device)
        return replace(made, model=made.model.to(setting.device), x=x, y=y)


CASES = {
    "ResNet-18, 64²": Case(lambda: resnet18(CLASSES), (3, 64, 64), 48, 1.3),
    "ViT-B/16, 224²": Case(lambda: ViT(CLASSES, 224, 16, 768, 12, 12), (3, 224, 224), 96, 1.10),
    "ResNet-50, 224²": Case(lambda: resnet50(CLASSES), (3, 224, 224), 96, 1.15),
}
TINY = {"CNN, 8²": Case(*NETWORKS["CNN"], samples=12, target=1.15)}
AND, OTHERS = ("AND-mask",), ("SAND-mask", "PCGrad")
MADE: dict[str, Callable[[], Rule]] = {
    "AND-mask": RULES["ANDMask"],
    "SAND-mask": dg.SANDMask,
    "PCGrad": dg.PCGrad,
}
HEADER = [
    "| case | way | first step | step | × ERM | quartiles | peak |",
    "|---|---|---|---|---|---|---|",
]


def erm(b: Batch, model: nn.Module) -> Way:
    """Forward in bfloat16 and backward on the mixed batch."""

    def step() -> None:
        with torch.autocast(b.x.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(b.x), b.y)
        loss.backward()

    return step


def agreement(b: Batch, model: nn.Module, rule: Rule) -> Way:
    """The same with ``agree(x, domain)``; the domains are shuffled, as by a loader."""
    agree = dg.GradientAgreement(model, rule)
    shuffle = torch.randperm(len(b.y), generator=torch.Generator().manual_seed(0))
    domain = b.domain[shuffle]

    def step() -> None:
        with torch.autocast(b.x.device.type, torch.bfloat16):
            losses = F.cross_entropy(agree(b.x, domain), b.y, reduction="none")
        agree.backward(losses)

    return step


def eager(setting: Setting) -> Iterator[str]:
    """Without a compiler."""
    yield from _costs(setting, is_compiled=False)


def compiled(setting: Setting) -> Iterator[str]:
    """Both by ``torch.compile``; first what the targets are about."""
    yield from _costs(setting, is_compiled=True)


def _costs(setting: Setting, is_compiled: bool) -> Iterator[str]:
    yield from HEADER
    cases = TINY if setting.tiny else CASES
    wanted: list[tuple[int, tuple[str, ...]]] = [(3, AND), (3, OTHERS), (10, AND), (30, AND)]
    if not is_compiled:  # nothing is compiled twice, so all rules at once
        wanted = [(3, AND + OTHERS), (10, AND + OTHERS), (30, AND + OTHERS)]
    for domains, rules in wanted[:1] if setting.tiny else wanted:
        for title, case in cases.items():
            for row in _rows(setting, case, domains, rules, is_compiled):
                yield f"| {title}, {domains} domains | {row} |"
            torch.compiler.reset()
            if setting.device == "cuda":
                torch.cuda.empty_cache()


def _rows(
    setting: Setting, case: Case, domains: int, rules: Sequence[str], is_compiled: bool
) -> Iterator[str]:
    b = case.batch(setting, domains)
    model = setting.compiled(b.model) if is_compiled else b.model
    made: dict[str, Callable[[], Way]] = {"ERM": lambda: erm(b, model)}
    made |= {name: lambda name=name: agreement(b, model, MADE[name]()) for name in rules}
    begun: dict[str, str] = {}
    ways: dict[str, Way] = {}
    for name, make in made.items():

        def begin(name: str = name, make: Callable[[], Way] = make) -> str:
            way = make()
            first = _seconds(setting, b, way)
            _seconds(setting, b, way)
            memory = _peak(setting, b, way)
            ways[name] = way
            return f"{first:.1f} s | {memory}"

        begun[name] = cell(begin)
    timings = {}
    if "ERM" in ways:
        several = {name: _several(setting, b, way) for name, way in ways.items()}
        rounds = 2 if setting.tiny else ROUNDS
        timings = measure(several, rounds, "", before=setting.synchronize, progress=False)
    for name, start in begun.items():
        first, _, memory = start.partition(" | ")
        target = case.target if name == "AND-mask" and is_compiled and domains == 3 else None
        yield f"{name} | {first} | {_timed(timings.get(name), target)} | {memory}"


def _timed(timing: Timing | None, target: float | None) -> str:
    if timing is None:
        return "– | – | –"
    if timing.failure is not None:
        return f"{WRONG}: {timing.failure} | – | –"
    met = "" if target is None else f" ({'≤' if timing.ratio <= target else 'over'} {target:g})"
    return f"{1e3 * timing.median / STEPS:.2f} ms | {timing.ratio:.2f}{met} | {timing.spread}"


def _several(setting: Setting, b: Batch, way: Way) -> Way:
    def steps() -> None:
        for _ in range(STEPS):
            b.clear()
            way()
        setting.synchronize()

    return steps


def _seconds(setting: Setting, b: Batch, way: Way) -> float:
    b.clear()
    setting.synchronize()
    start = time.perf_counter()
    way()
    setting.synchronize()
    return time.perf_counter() - start


def _peak(setting: Setting, b: Batch, way: Way) -> str:
    """Over what is there with the model and its samples."""
    if setting.device != "cuda":
        return "–"
    b.clear()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    way()
    return f"{(torch.cuda.max_memory_allocated() - before) / MIB:.0f} MiB"


def counts(setting: Setting) -> Iterator[str]:
    """By the profiler and CUDA's debug mode for waits, beside the pretended device's."""
    yield "| step | kernels | on pretended CUDA | waits | on pretended CUDA |"
    yield "|---|---|---|---|---|"
    pretended = json.loads(TABLE.read_text(encoding="utf-8"))
    for network in ("MLP",) if setting.tiny else ("MLP", "CNN", "ViT", "ResNet-18", "ResNet-50"):
        for rule in (None, "ANDMask", "PCGrad"):
            name = "plain training" if rule is None else f"mixed batch, {rule}, 3 domains"
            case = f"{network}: {name}"

            def counted(network: str = network, rule: str | None = rule, case: str = case) -> str:
                kernels, waits = _counts_of(setting, network, rule)
                row = pretended.get(case, {"launches": "–", "synchronizations": "–"})
                return f"{kernels} | {row['launches']} | {waits} | {row['synchronizations']}"

            yield f"| {case} | {cell(counted)} |"
        torch.compiler.reset()


def _counts_of(setting: Setting, network: str, rule: str | None) -> tuple[int, int | str]:
    """Of a later step; on a CPU, operators take the kernels' place."""
    b = mixed(network, each=2).to(setting.device)

    def plain() -> None:
        b.model.zero_grad()
        F.cross_entropy(b.model(b.x), b.y).backward()

    step = plain
    if rule is not None:
        step = mixed_batch(b, dg.GradientAgreement(b.model, RULES[rule]()))
    for _ in range(2):
        step()
    waits: int | str = "–"
    cuda = setting.device == "cuda"
    if cuda:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits = sum("synchronizing CUDA operation" in str(w.message) for w in caught)
        step()  # Steps 4, 8, … may be audited; the fifth is not.
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiled:
        step()
        setting.synchronize()
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    events = (e for e in profiled.events() or () if e.device_type == wanted)
    # As the pretended device counts: what goes to the host is no launch, all else is.
    return sum(not e.name.startswith("Memcpy DtoH") for e in events), waits
