"""Whether the library is right on a device: parts of ``gpu.py``.

The reference is separate backward passes on the same device in the same precision, and the rules'
equations in NumPy; the zoo's is float64 on the host.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from gpu_setting import WRONG, Setting, cell
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

import domaingrad as dg
from domaingrad.inspect import conflict
from tests.engine import equations
from tests.engine.problems import PROBLEMS, RANDOM, Problem
from tests.engine.separate_passes import reference_and_copy
from tests.pretended_cuda.on_device.batches import (
    EQUATIONS,
    RULES,
    WAYS,
    Mixed,
    mixed,
    mixed_batch,
    separate_gradients,
)

Updates = dict[str, np.ndarray]


@dataclass(frozen=True)
class Precision:
    """How a step is computed, and how far two computations of it may be apart.

    The bounds are on ‖actual − expected‖ / ‖expected‖ over the model: some times the unit roundoff
    of the products, and more for a mask, which turns where the sign of a gradient is in doubt.
    """

    bound: float
    bound_of_masks: float
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    autocast: torch.dtype | None = None


PRECISIONS = {
    "float64": Precision(1e-12, 1e-9, torch.float64),
    "float32": Precision(1e-5, 1e-3),
    "TF32": Precision(1e-2, 1e-1, tf32=True),
    "bf16 autocast": Precision(5e-2, 3e-1, autocast=torch.bfloat16),
    "fp16 autocast, GradScaler": Precision(1e-2, 1.5e-1, autocast=torch.float16),
}
MASKS = ("ANDMask", "SANDMask", "AgrSum")
FLOAT32 = PRECISIONS["float32"]
BOUND = FLOAT32.bound_of_masks


@contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Products of float32 matrices and convolutions in TF32 or as they are."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def batch_of(setting: Setting, network: str, precision: Precision, domains: int = 3) -> Mixed:
    """A model and samples on the device."""
    scaler = (
        torch.amp.GradScaler(setting.device, init_scale=2.0**10)
        if precision.autocast == torch.float16
        else None
    )
    if scaler is not None:
        scaler.scale(torch.ones(1, device=setting.device))  # makes the scale, on first use
    batch = mixed(network, domains, each=4 if setting.tiny else 8, dtype=precision.dtype)
    return replace(batch.to(setting.device), autocast=precision.autocast, scaler=scaler)


def distance(actual: dict[str, Tensor], expected: Updates) -> float:
    """‖actual − expected‖ / ‖expected‖ over the model."""
    size = sum(float((own**2).sum()) for own in expected.values())
    apart = sum(
        float(((actual[name].double().numpy() - own) ** 2).sum()) for name, own in expected.items()
    )
    return float(np.sqrt(apart / size))


def verdict(found: float, bound: float) -> str:
    """A cell; NaN is wrong."""
    return f"{found:.1e}" if found <= bound else f"{found:.1e} {WRONG}, bound {bound:g}"


def error_of_rule(setting: Setting, network: str, rule: str, precision: Precision, way: str) -> str:
    """Of the second step, since the first is verified by the engine itself."""
    two = rule == "PCGrad"  # its equation is written for two domains, whose order is no matter
    with products(precision.tf32):
        batch = batch_of(setting, network, precision, domains=2 if two else 3)
        equation = equations.pcgrad_of_two if two else EQUATIONS[rule]
        agree = dg.GradientAgreement(batch.model, RULES[rule](), scaler=batch.scaler)
        step = WAYS[way](batch, agree)
        step()
        step()
        actual = batch.gradients
        expected = equation(separate_gradients(replace(batch, model=deepcopy(batch.model))))
    bound = precision.bound_of_masks if rule in MASKS else precision.bound
    return verdict(distance(actual, expected), bound)


def rules(setting: Setting) -> Iterator[str]:
    """Every rule in every precision and way."""
    yield f"| model, way, rule | {' | '.join(PRECISIONS)} |"
    yield "|---|" + "---|" * len(PRECISIONS)
    networks = ("MLP",) if setting.tiny else ("MLP", "CNN", "ViT", "ResNet-18")
    for network in networks:
        # Batch norm normalizes the parts of an accumulated batch apart.
        for way in WAYS if network == "MLP" else ("mixed batch",):
            for rule in (*EQUATIONS, "PCGrad"):
                cells = [
                    cell(partial(error_of_rule, setting, network, rule, precision, way))
                    for precision in PRECISIONS.values()
                ]
                yield f"| {network}, {way}, {rule} | {' | '.join(cells)} |"


def error_of_steps(batch: Mixed, model: nn.Module, steps: int = 3) -> str:
    """AND-mask's error after some steps of a model that wraps the batch's."""
    agree = dg.GradientAgreement(model, RULES["ANDMask"]())
    step = mixed_batch(batch, agree)
    for _ in range(steps):
        step()
    actual = batch.gradients
    expected = EQUATIONS["ANDMask"](separate_gradients(batch))
    return verdict(distance(actual, expected), BOUND)


def channels_last(setting: Setting, network: str) -> str:
    """All in the memory format that tensor cores prefer."""
    batch = batch_of(setting, network, FLOAT32)
    model = batch.model.to(memory_format=torch.channels_last)
    x = batch.x.contiguous(memory_format=torch.channels_last)
    return error_of_steps(replace(batch, x=x), model)


def compiled(setting: Setting, network: str, mode: str | None = None) -> str:
    """By ``torch.compile``."""
    batch = batch_of(setting, network, FLOAT32)
    return error_of_steps(batch, setting.compiled(batch.model, mode))


@contextmanager
def one_process(setting: Setting) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "nccl" if setting.device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as directory:
        store = dist.FileStore(str(Path(directory) / "store"), 1)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def under_ddp(setting: Setting, network: str) -> str:
    """A mixed batch in DistributedDataParallel."""
    with one_process(setting):
        batch = batch_of(setting, network, FLOAT32)
        return error_of_steps(batch, DistributedDataParallel(batch.model))


def by_hook(setting: Setting, network: str) -> str:
    """The hook of DistributedDataParallel, with the one domain that one process has."""
    with one_process(setting):
        batch = batch_of(setting, network, FLOAT32, domains=1)
        model = DistributedDataParallel(batch.model)
        dg.DDPAgreement(model, dg.Mean(), domain=0)
        for _ in range(2):
            batch.model.zero_grad()
            batch.losses(model(batch.x)).mean().backward()
        actual = batch.gradients
        expected = equations.mean(separate_gradients(batch))
        return verdict(distance(actual, expected), BOUND)


def dropped(setting: Setting, network: str) -> str:
    """The share of weights on the wrong side of the threshold, which a pass a sample tells."""
    batch = batch_of(setting, network, FLOAT32)
    dropout = dg.GSNRDropout(batch.model, ratio=0.25)
    dropout.hold(torch.optim.SGD(batch.model.parameters(), 0.1))
    dropout.update(batch.x, batch.losses)
    masks = {name: mask.cpu().numpy() for name, mask in dropout.masks.items()}
    dropout.remove()
    G = separate_gradients(replace(batch, domain=torch.arange(len(batch.x))))
    wrong = total = 0
    for name, kept in masks.items():
        square = (G[name] ** 2).mean(0)
        rank = np.divide(G[name].mean(0) ** 2, square, out=0 * square, where=square > 0)
        threshold = np.sort(rank, axis=None)[-round(0.25 * rank.size)]
        near = np.abs(rank - threshold) <= 1e-3 * threshold
        wrong += int(((kept == (rank > threshold)) & ~near).sum())
        total += rank.size
    return f"of {total}: {verdict(wrong / total, 1e-3)}"


def learned(setting: Setting, network: str) -> str:
    """Ratios after steps of training; they must have moved."""
    batch = batch_of(setting, network, FLOAT32)
    dropout = dg.GSNRDropout(batch.model)
    optimizer = dropout.hold(torch.optim.SGD(batch.model.parameters(), 1e-2))
    before = dropout.ratios
    for _ in range(3):
        optimizer.zero_grad()
        dropout.update(batch.x, batch.losses, batch.domain)
        F.cross_entropy(batch.model(batch.x), batch.y).backward()
        optimizer.step()
    moved = min(abs(dropout.ratios[name] - start) for name, start in before.items())
    return f"moved by {moved:.4f}" if 0.0 < moved < 1.0 else f"moved by {moved} {WRONG}"


def cosines(setting: Setting, network: str) -> str:
    """Cosines between the domains' gradients."""
    batch = batch_of(setting, network, FLOAT32)
    found = conflict(batch.model, batch.x, batch.losses, batch.domain).cosines.numpy()
    stacks = separate_gradients(batch).values()
    G = np.concatenate([own.reshape(len(own), -1) for own in stacks], 1)
    lengths = np.linalg.norm(G, axis=1)
    expected = G @ G.T / np.outer(lengths, lengths)
    return verdict(float(np.abs(found - expected).max()), BOUND)


IMAGES, FEW, WITHOUT_BATCH_NORM = ("CNN", "ViT", "ResNet-18"), ("CNN", "ViT"), ("MLP", "ViT")

MODES: dict[str, tuple[Callable[[Setting, str], str], tuple[str, ...]]] = {
    "channels_last": (channels_last, IMAGES),
    "compiled": (compiled, FEW),
    "CUDA graphs (reduce-overhead)": (partial(compiled, mode="reduce-overhead"), FEW),
    "DistributedDataParallel, one process": (under_ddp, IMAGES),
    "DDPAgreement, one process": (by_hook, IMAGES),
    "conflict: cosines": (cosines, IMAGES),
    "GSNR dropout: on the wrong side": (dropped, WITHOUT_BATCH_NORM),
    "GSNR dropout: learned ratio": (learned, WITHOUT_BATCH_NORM),
}


def modes(setting: Setting) -> Iterator[str]:
    """What surrounds a step; float32."""
    yield "| model, what | error |"
    yield "|---|---|"
    for title, (run, networks) in MODES.items():
        for network in networks[:1] if setting.tiny else networks:
            with products(tf32=False):
                yield f"| {network}, {title} | {cell(partial(run, setting, network))} |"
            torch.compiler.reset()


def zoo(setting: Setting) -> Iterator[str]:
    """The mean of the domains for each model of ``tests/engine/problems``, in float64."""
    yield "| model | error |"
    yield "|---|---|"
    names = [name for name in PROBLEMS if name not in RANDOM][:: 12 if setting.tiny else 1]
    right = 0
    for name in names:
        found = cell(partial(error_in_zoo, setting, PROBLEMS[name]))
        torch.compiler.reset()
        right += WRONG not in found
        if WRONG in found or "Warning" in found:
            yield f"| {name} | {found} |"
    yield f"| right | {right} of {len(names)} |"


def error_in_zoo(setting: Setting, problem: Problem) -> str:
    """Of the second step from the same state, since the first is verified by the engine itself."""
    gradients, _, model = reference_and_copy(problem, "single pass")
    expected = equations.mean(gradients)
    model = model.to(setting.device)
    there = partial(tree_map_only, Tensor, lambda t: t.to(setting.device))
    inputs, targets, options = there((problem.inputs, problem.targets, problem.options))
    agree, state = dg.GradientAgreement(model, dg.Mean()), deepcopy(model.state_dict())
    for _ in range(2):
        model.load_state_dict(state)
        model.zero_grad()
        agree.backward(problem.losses(agree(inputs, problem.domain, **options), targets))
    actual = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    if once := expected.keys() ^ actual.keys():
        return f"{WRONG}: only one of the two has gradients of {', '.join(sorted(once))}"
    return verdict(distance(actual, expected), 1e-6)
