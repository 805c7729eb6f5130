"""The device that a model computes on, its memory, and the precision of its numbers and products."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasscope.engine.errors import UsageError
from biasscope.engine.model.weights import first_line

if TYPE_CHECKING:
    from torch import nn

WIDE = 512
"""Nodes a row may hold on an accelerator, which has no small caches and idles in short rows. Not measured."""
EXACT = "highest"
"""torch's name of float32 products that are float32 throughout."""


def check_device(device: str) -> None:
    """Raise UsageError for a device that is none, or is not here. torch is asked only of what may be here."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|hpu|npu)(:\d+)?", device):
        raise UsageError(f"--device '{device}' is no device; take auto, cpu, cuda, cuda:1, mps or xpu")
    if device.split(":")[0] not in ("auto", "cpu"):
        _device(device)


def device_type(device: str) -> str:
    """ "cpu", "cuda" or another kind of device; torch is asked only where "auto" may mean a GPU."""
    if device != "auto":
        return device.split(":")[0]
    gpu = sys.platform == "win32" or any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    return _device("auto") if gpu else "cpu"


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device '{device}' cannot be used here: {first_line(error)}; try --device auto"
        ) from error
    return device


def free_memory(device: str) -> int | None:
    """Bytes that the device has left, the model's weights being there already; None where it does not say."""
    import torch

    kind = device.split(":")[0]
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    module = getattr(torch, kind, None)
    known = getattr(module, "mem_get_info", None)
    return None if known is None else int(known(device)[0])


def matmul_precision() -> str:
    """How float32 matrices are multiplied, by torch's name; "highest" unless somebody has asked for less.

    torch is not loaded for it: where nobody has, only its environment variable can have asked.
    """
    if (torch := sys.modules.get("torch")) is not None:
        return str(torch.get_float32_matmul_precision())
    return "high" if os.environ.get("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE") == "1" else EXACT


def in_identity(device: str, dtype: str) -> dict[str, Any]:
    """What decides numbers beside device and dtype, only where it is not as it always was: stored runs keep
    their keys.
    """
    matmul = {} if (precision := matmul_precision()) == EXACT else {"matmul": precision}
    readout = {} if dtype == "float32" else {"readout": "float32"}
    return matmul | readout | ({} if device == "cpu" else {"rows": WIDE})


def unit_roundoff(dtype: str) -> float | None:
    """The largest relative error of rounding once, in what a model computes with; None: full float32."""
    import torch

    if dtype != "float32":
        return float(torch.finfo(getattr(torch, dtype)).eps) / 2
    # tf32 keeps 10 bits behind the point, "medium" bfloat16's 7
    return {EXACT: None, "high": 2.0**-11, "medium": 2.0**-8}[matmul_precision()]


def read_in_float32(bridge: Any) -> None:
    """Let the last norm and the unembedding compute in float32, whatever the rest of the model does.

    A bfloat16 logit near 10 can only change in steps of 0.06, as large as most effects.
    """
    for module in (bridge.ln_final, bridge.unembed):
        for part in module.modules():
            _widened(part)
        module.register_forward_pre_hook(lambda module, given: tuple(x.float() for x in given))


def _widened(module: "nn.Module") -> None:
    """Give the module float32 copies of its own numbers: an embedding may be tied to them."""
    from torch import nn

    for name, weight in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(weight.detach().float(), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            module.register_buffer(name, buffer.float())
