"""Linear layers through oneDNN on a CPU.

torch multiplies float32 matrices with MKL, which on processors of other makers than Intel leaves half of
their vector width unused; oneDNN, which every torch with a CPU build carries, measured 2.1 times MKL's rate
on an AMD one, at the same precision (float32 throughout). torch itself calls this operator wherever it
compiles a model. `torch.backends.mkldnn.flags(enabled=False)` switches back to torch's own.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Linear(torch.autograd.Function):
    """x Wᵀ + b of frozen weights: gradients flow to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product."""
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The gradient with respect to x."""
        (weight,) = ctx.saved_tensors
        return product(grads[0].contiguous(), weight.t(), None), None, None


def product(
    x: Float[Tensor, "... inner"], weight: Float[Tensor, "outer inner"], bias: Tensor | None
) -> Float[Tensor, "... outer"]:
    """x Wᵀ + b by oneDNN, float32."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _dense(weight: Float[Tensor, "outer inner"]) -> Float[Tensor, "outer inner"]:
    """The weight, copied where it is a slice of a larger one (TransformerLens's view of GPT-2's fused q, k,
    v): oneDNN takes any strides, but for those its slowest kernel, hundreds of times as long.
    """
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


def available() -> bool:
    """Whether this torch has the operator."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.eye(2)
    try:
        return torch.equal(product(x, x, x[0]), x + x[0])
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def install(model: nn.Module) -> None:
    """Run the model's linear layers (Linear, GPT-2's Conv1D) through oneDNN where that computes the same."""
    from transformers.pytorch_utils import Conv1D

    if not available():
        return
    for module in model.modules():
        if (
            type(module) in (nn.Linear, Conv1D)
            and module.weight.dtype == torch.float32
            and not module.weight.requires_grad
        ):
            module.__dict__["forward"] = _through(module, type(module) is Conv1D)


def _through(module: Any, transposed: bool) -> Any:
    """A forward of the module that reads its weights anew at every call."""
    plain = module.forward

    def forward(x: Tensor) -> Tensor:
        if not torch.backends.mkldnn.enabled or x.dtype != torch.float32 or not x.numel():
            return plain(x)
        weight = _dense(module.weight.t() if transposed else module.weight)
        if x.requires_grad and torch.is_grad_enabled():
            return _Linear.apply(x, weight, module.bias)
        return product(x, weight, module.bias)

    return forward
