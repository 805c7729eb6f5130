"""Where a model's heads look: the weights of their attention, read in a pass over a block."""

from collections.abc import Callable, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Block, Scored, pack
from biasscope.engine.types import Site

TOLERANCE = {"float32": 1e-4}
"""How far from 1 the weights of a token may sum; of half precision 0.02."""


def missing(lm: LM) -> str:
    """Why the model's attention cannot be read; empty where it can.

    A short text is tried: every layer must show weights, and they must sum to 1.
    """
    ids = tuple((37 * i + 11) % lm.vocab for i in range(6))
    block = pack([[Scored((*ids, 0), len(ids), 0)]], [(0,)], "all", lm.packed)
    layers = range(lm.n_layers)
    try:
        rows = readouts(lm, block, [Site(layer, "z", 0) for layer in layers])
    except Exception as error:  # noqa: BLE001  whatever a family lacks, its effects are measured all the same
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return f"{lm.name} shows no attention weights ({reason})"
    silent = [layer for layer in layers if Site(layer, "z", 0) not in rows]
    if silent:
        return f"{lm.name} shows no attention weights in layer {silent[0]}"
    off = max(abs(float(row.sum()) - 1) for row in rows.values())
    if not off <= TOLERANCE.get(lm.dtype, 0.02):
        return f"the attention weights of {lm.name} sum to 1 ± {off:.2g}, not to 1"
    return ""


def readouts(
    lm: LM, block: Block, heads: Sequence[Site], puts: forward.Puts = MappingProxyType({})
) -> dict[Site, Float[Tensor, "example node"]]:
    """The weights with which each example's last prompt token attends to the nodes of its row, per head.

    With `puts`, of the model in which those sites are replaced. Nodes that are not the token's own prompt
    have weight 0. A head of a layer that shows none is left out.
    """
    row, node = block.places[block.readout].unbind(1)
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        def hook(pattern: Float[Tensor, "row head dest_node src_node"]) -> None:
            seen[layer] = pattern[row, :, node].float().cpu()

        return hook

    layers = sorted({head.layer for head in heads})
    hooks = {Site(layer, "weights").hook: keep(layer) for layer in layers}
    with torch.no_grad():
        forward.run(lm, block, {**forward.overwrites([puts]), **hooks})
    return {head: seen[head.layer][:, head.head] for head in heads if head.layer in seen}
