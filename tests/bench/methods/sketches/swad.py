"""SWAD (Cha et al.): weights averaged while the validation loss lies in a valley."""

from copy import deepcopy
from dataclasses import dataclass

from domaingrad.bench.methods import Method, Requires
from domaingrad.bench.methods.erm import ERMLearner

from .common import info


def valley(losses, converge, tolerance, ratio):
    """First and last segment of the valley; ``None`` before it has begun."""
    for end in range(converge, len(losses) + 1):
        window = losses[end - converge : end]
        if window[0] == min(window):
            break
    else:
        return None
    threshold = (1 + ratio) * sum(window) / converge
    first = last = end - converge
    while first > max(0, end - tolerance) and losses[first - 1] <= threshold:
        first -= 1
    while last + 1 < len(losses) and min(losses[last + 1 : last + 1 + tolerance]) <= threshold:
        last += 1
    return first, last


class SWADLearner(ERMLearner):
    def build(self):
        self.average = deepcopy(self.network).requires_grad_(False)
        self.keep(losses=[], segments=[], sum=self._weights(), count=0)

    def update(self, batches):
        loss = super().update(batches)
        weights = self._weights()
        self.sum = weights if self.count == 0 else {n: self.sum[n] + w for n, w in weights.items()}
        self.count += 1
        return loss

    def validated(self, validation):
        self.losses.append(sum(each.loss for each in validation.values()) / len(validation))
        self.segments.append({name: total / self.count for name, total in self.sum.items()})
        self.count = 0
        hp = self.hp
        found = valley(self.losses, hp.converge, hp.tolerance, hp.ratio)
        first, last = found or (len(self.segments) - 1,) * 2
        chosen = self.segments[first : last + 1]
        mean = {name: sum(s[name] for s in chosen) / len(chosen) for name in chosen[0]}
        self.average.load_state_dict({**self.network.state_dict(), **mean})

    def predictor(self):
        return self.average

    def _weights(self):
        return {name: p.detach().clone() for name, p in self.network.named_parameters()}


@dataclass(frozen=True)
class SWAD(Method):
    info = info("swad", "SWAD", "2102.08604")
    requires = Requires(min_domains=1)
    code = SWADLearner

    converge: int = 3
    tolerance: int = 6
    ratio: float = 0.3
