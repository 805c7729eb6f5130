"""How many nodes one pass may hold."""

from biasscope.engine.errors import UsageError
from biasscope.engine.models import LM
from biasscope.engine.packing import ROWS

PROCESS = 900 * 2**20
"""Bytes of a process with its libraries and a forest, before weights and passes."""


def batch_size(lm: LM, requested: int | None = None, max_memory: int | None = None) -> int:
    """Nodes × copies of one pass: as requested, else from the model's device and shape, and the memory it may take, alone.

    On a CPU a pass should stay near its caches (2,048 nodes were as good as any number from 1,000 to 4,100); on a GPU it should fill
    2 GiB of the widest tensors. UsageError where the weights and one row alone need more than `max_memory` bytes.
    """
    widest = max(2 * lm.d_mlp + 8 * lm.d_model, 4 * lm.n_heads * ROWS["all"], lm.vocab // 4)
    if requested is not None:
        return requested
    size = 2048 if lm.device == "cpu" else max(2048, 2**31 // (4 * widest))
    if max_memory is None:
        return size
    # a node's share of a pass: what its layer holds, and its logits twice (log-distribution, divergence) were it read
    per_node = 4 * (3 * widest + 3 * lm.vocab)
    free = max_memory - lm.weight_bytes - PROCESS
    if free < ROWS["all"] * per_node:
        least = (lm.weight_bytes + PROCESS + ROWS["all"] * per_node) / 2**20
        raise UsageError(f"--max-memory is too little for {lm.name}: it needs at least {least:.0f}MiB")
    return min(size, free // per_node)
