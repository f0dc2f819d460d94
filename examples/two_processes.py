"""DistributedDataParallel: each process has batches of one domain, and the domains agree.

    torchrun --nproc-per-node 2 examples/two_processes.py

Where DDP would average, the rule decides; the loop is that of DDP. Mixed batches: docs/scale.md.
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import domaingrad as dg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    dist.init_process_group("gloo")  # "nccl", and a device a process, on GPUs
    site = dist.get_rank()

    torch.manual_seed(0)  # the same model on every process
    model = DistributedDataParallel(nn.Linear(8, 2))
    dg.DDPAgreement(model, dg.ANDMask(tau=1.0), domain=site)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    draws = torch.Generator().manual_seed(site)  # other samples on each
    for _ in range(given.steps):
        x = torch.randn(64, 8, generator=draws)
        y = (x[:, 0] > 0).long()
        x[:, 1] = (2.0 * y - 1.0) * (1.0 if site == 0 else -1.0)  # a shortcut, other at each site
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    kept = model.module.weight.detach().abs().mean(0)
    if site == 0:
        print(f"weight of the mechanism {kept[0]:.3f}, of the shortcut {kept[1]:.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
