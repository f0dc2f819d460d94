"""Agreement in a LightningModule, with automatic optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from domaingrad.engine import AgreementError, GradientAgreement
from domaingrad.rules import Rule

STATE = "domaingrad"
"""Where the rule's random state is in a checkpoint of Lightning."""


class AgreementMixin:
    """Let a rule combine the domains' gradients where Lightning goes backward.

    Named before ``LightningModule`` (of ``lightning`` or ``pytorch_lightning``) among the bases;
    ``training_step`` returns one loss a sample, of outputs of ``self.agree(x, domain)``. The rest
    stays the Trainer's: devices, DistributedDataParallel, precision (fp16 is unscaled before the
    rule), clipping, ``accumulate_grad_batches`` (g_e is then the gradient of the mean loss over
    all samples of domain e in these batches), logging, checkpoints.

    >>> import torch
    >>> from torch import nn
    >>> import domaingrad as dg
    >>> class Plain(nn.Module): ...  # stands for L.LightningModule
    >>> class Classifier(AgreementMixin, Plain):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.model = nn.Linear(3, 2)
    ...         self.agree_by(dg.ANDMask(tau=0.8))
    ...
    ...     def forward(self, x):
    ...         return self.model(x)
    ...
    ...     def training_step(self, batch, batch_idx):
    ...         x, y, domain = batch
    ...         return nn.functional.cross_entropy(self.agree(x, domain), y, reduction="none")
    """

    if TYPE_CHECKING:
        trainer: Any
        automatic_optimization: bool

    _rule: Rule | None = None
    _options: Mapping[str, Any] = {}
    _agreement: GradientAgreement | None = None

    def agree_by(self, rule: Rule, **options: Any) -> None:
        """Say how the domains agree; in ``__init__``, after ``super().__init__()``.

        Args:
            rule: what to do with the domains' gradients.
            options: of :class:`GradientAgreement` (``engine``, ``weights``, ``comm_dtype``, …).
        """
        self._rule, self._options, self._agreement = rule, options, None

    @property
    def agree(self) -> GradientAgreement:
        """Called with a batch, the outputs of ``forward`` for it; in ``training_step``.

        Raises:
            AgreementError: no rule, manual optimisation, or a strategy that is not one process
                with one device a process and whole parameters.
        """
        if self._rule is None:
            raise AgreementError(
                "there is no rule to agree by; call self.agree_by(dg.ANDMask(tau=0.8)), say, in "
                "__init__, after super().__init__()."
            )
        model = self.trainer.strategy.model
        if self._agreement is None or self._agreement.model is not model:
            self._agreement = self._bound_to(model, self._rule)
        if isinstance(model, DistributedDataParallel):
            # Lightning runs training_step inside the wrapper's forward pass, after which it would
            # average the first gradients that come, those of a single domain, say. Each time, since
            # no_sync() puts back what was there before.
            model.require_backward_grad_sync = False
        return self._agreement

    def _bound_to(self, model: Any, rule: Rule) -> GradientAgreement:
        if not self.automatic_optimization:
            raise AgreementError(
                "AgreementMixin works with automatic optimisation; found "
                "automatic_optimization = False. Leave it on and return the losses, or use "
                "dg.GradientAgreement in a loop of your own."
            )
        wrapped = isinstance(model, DistributedDataParallel)
        if model is not self and not wrapped:
            raise AgreementError(
                f"expected the module itself or in DistributedDataParallel; found a "
                f"{type(model).__name__} of {type(self.trainer.strategy).__name__}. Use "
                f"Trainer(strategy='ddp'), or one device."
            )
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return GradientAgreement(model, rule, scaler=scaler, **self._options)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Called by Lightning: leave the agreed update in ``.grad``.

        Raises:
            AgreementError, ValueError: not one loss a sample, of outputs of ``self.agree``.
        """
        batches = self.trainer.accumulate_grad_batches
        if batches == 1:
            self.agree.backward(loss)
            return
        self.agree.accumulate(loss * batches)  # Lightning has divided it.
        if not self.trainer.fit_loop._should_accumulate():
            self.agree.combine()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called by Lightning; one of your own calls ``super()``'s."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        if self._rule is not None:
            checkpoint[STATE] = self._rule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called by Lightning; one of your own calls ``super()``'s."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        if self._rule is not None and STATE in checkpoint:
            self._rule.load_state_dict(checkpoint[STATE])

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which are bound to a model of their own."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {**state, "_agreement": None}
