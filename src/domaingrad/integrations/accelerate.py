"""Agreement in a loop of Accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from domaingrad.engine import AgreementError, GradientAgreement
from domaingrad.rules import Rule

if TYPE_CHECKING:
    from accelerate import Accelerator


class AcceleratedAgreement:
    """Let a rule combine the domains' gradients, in the place of ``accelerator.backward(loss)``.

    Mixed precision (fp16 is unscaled before the rule), clipping, processes and accumulation are the
    Accelerator's: within ``accelerator.accumulate(model)``, g_e is the gradient of the mean loss
    over all samples of domain e in the batches of a step, and ``.grad`` gets the update with the
    last of them. Save the rule's random state by ``accelerator.register_for_checkpointing(agree)``.

    Args:
        accelerator: the Accelerator.
        model: as ``accelerator.prepare`` returns it.
        rule: what to do with the domains' gradients.
        options: of :class:`GradientAgreement` (``engine``, ``weights``, ``kernels``,
            ``comm_dtype``).

    Raises:
        AgreementError: parameters that are spread over processes, or a model that is not prepared.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, rule: Rule, **options: Any
    ) -> None:
        kind = accelerator.distributed_type.value
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise AgreementError(
                f"expected one process, or several with whole parameters; found {kind}. Leave its "
                f"plugin out, so that the model is in DistributedDataParallel; or fully_shard it "
                f"yourself and use dg.GradientAgreement with `with agree.domain(name)`."
            )
        self._accelerator = accelerator
        self._agreement = GradientAgreement(model, rule, scaler=accelerator.scaler, **options)

    def __call__(self, inputs: Any, domain: Tensor, **options: Any) -> Any:
        """Run the model, as :class:`GradientAgreement` does."""
        return self._agreement(inputs, domain, **options)

    def backward(self, losses: Tensor) -> None:
        """Add the agreed update to ``.grad``; when accumulating, with the last batch of a step.

        Args:
            losses: shape [N], one loss a sample, not divided by the number of batches.
        """
        scaler = self._accelerator.scaler
        losses = losses if scaler is None else scaler.scale(losses)
        if self._accelerator.gradient_accumulation_steps == 1:
            self._agreement.backward(losses)
            return
        self._agreement.accumulate(losses)
        if self._accelerator.sync_gradients:
            self._agreement.combine()

    def idle(self) -> None:
        """Take part in a step of several processes without any sample."""
        self._agreement.idle()

    def state_dict(self) -> dict[str, Any]:
        """The rule's random state."""
        return self._agreement.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self._agreement.load_state_dict(state)
