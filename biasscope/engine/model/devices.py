"""The device that a model computes on."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from biasscope.engine.errors import UsageError
from biasscope.engine.model.weights import first_line

if TYPE_CHECKING:
    pass


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
