"""A compiled loop: the model and the rule go through torch.compile together.

    python examples/compiled_loop.py                       # on a GPU where there is one
    python examples/compiled_loop.py --backend aot_eager   # without a compiler

Every batch has as many samples of each domain, so that it is compiled once.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F

import domaingrad as dg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--backend", default="inductor", choices=("inductor", "aot_eager"))
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    torch.manual_seed(0)
    domain = torch.arange(96) % 3  # stays on the host: then a step waits for nothing
    x = torch.randn(96, 32, device=device)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(32, given.width), nn.GELU(), nn.Linear(given.width, 2))
    model = torch.compile(model.to(device), backend=given.backend)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    agree = dg.GradientAgreement(model, dg.ANDMask(tau=0.8))
    for step in range(given.steps):
        if step == 1:
            began = time.perf_counter()  # the first step captures, checks and compiles
        losses = F.cross_entropy(agree(x, domain), y, reduction="none")
        agree.backward(losses)
        optimizer.step()
        optimizer.zero_grad()
    agree.check()  # names domains whose gradients were not finite, and waits for the device
    each = (time.perf_counter() - began) / (given.steps - 1)
    print(f"loss {losses.mean().item():.4f} after {given.steps} steps of {1000 * each:.2f} ms")
    print(agree.explain())


if __name__ == "__main__":
    main()
