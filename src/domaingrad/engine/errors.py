"""What the engine raises and warns of."""


class AgreementError(RuntimeError):
    """The steps of an agreed update were called in an order that has no meaning."""


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
