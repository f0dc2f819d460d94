"""What the engine raises and warns of."""

import torch


class AgreementError(RuntimeError):
    """The steps of an agreed update were called in an order that has no meaning."""


class AuditError(AgreementError):
    """A step in one pass, compared with separate passes in the midst of a training, differs."""


class NonFiniteGradientWarning(RuntimeWarning):
    """A domain's gradient holds an infinity or a NaN; it is left visible in ``.grad``."""


class SinglePassWarning(UserWarning):
    """The single pass is not exact for a model, whose domains now pass one after the other."""


FOREIGN_BACKWARD = (
    "a backward that is not agree.backward(losses) of the same call reached outputs of "
    "agree(x, domain), so the model would learn nothing from it. Call agree.backward(losses) in "
    "place of loss.backward(), and pass all inputs of a step in one call of agree(x, domain)."
)
"""Said wherever autograd comes by unasked."""

UNREACHED = (
    "the losses of {domains} do not depend on the outputs of agree(x, domain); compute them from "
    "the outputs of the latest call."
)
MIXED_LOSSES = (
    "the losses of one domain depend on outputs of another (a contrastive or batch-wise loss?), "
    "so they are no losses of single domains. Compute each domain's loss from its own samples, "
    "`with agree.domain(name)`."
)


class UnsupportedModelError(Exception):
    """No graph of this model tells the units apart; the message says where."""


class DifferenceError(UnsupportedModelError):
    """Gradients differ, perhaps by rounding, which float64 has less of."""


class InconclusiveError(UnsupportedModelError):
    """The batch does not show whether the graph is exact; another may."""


class UnseenModelError(UnsupportedModelError):
    """Something of the model that is chosen on purpose cannot be seen in a graph."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not suffice, which is nobody else's fault.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    if isinstance(error, RuntimeError):
        said = str(error)
        return isinstance(error, torch.OutOfMemoryError) or ("alloc" in said and "memory" in said)
    return isinstance(error, MemoryError)
