"""What the engine raises and warns of."""


class AgreementError(RuntimeError):
    """The steps of an agreed update were called in an order that has no meaning."""


class NonFiniteGradientWarning(RuntimeWarning):
    """A domain's gradient holds an infinity or a NaN; it is left visible in ``.grad``."""
