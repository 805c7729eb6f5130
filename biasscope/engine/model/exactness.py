"""Whether many sequences in one row are measured as exactly as each alone: tried before a model is used."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.errors import DataError, not_finite
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Block, Scored, pack
from biasscope.engine.types import Site


def check_packing(lm: LM) -> LM:
    """The model with `packed` as is exact for it, by comparison with plain passes of three sequences.

    One head is ablated in both. Above the tolerance it falls back to one sequence a row; DataError if that
    differs too.
    """
    site = Site(lm.n_layers // 2, "z", lm.n_heads - 1)
    for first in (11, 12, 13):  # a token that gives NaN is the business of the prompts that hold it
        ids = [(37 * i + first) % lm.vocab for i in range(9)]
        paths = (ids[:5], [*ids[:4], *ids[5:7]], [ids[8], *ids[1:4]])
        groups = [[Scored((*path, 0), len(path), 0)] for path in paths]
        alone = [pack([group], [(0,)], "all", False) for group in groups]
        try:
            plain = torch.cat([_ablated(lm, block, site, resume=False) for block in alone])
        except Exception as error:
            raise DataError(
                f"model {lm.name} cannot be measured: a pass with one head ablated fails ({error})"
            ) from error
        if plain.isfinite().all():
            break
    else:
        raise DataError(
            f"model {lm.name} gives values that are not finite for three short texts; {not_finite(lm.dtype)}"
        )
    # half precision moves logits by its own rounding: compare with their size there
    tolerance = 1e-3 if lm.dtype == "float32" else 0.02 * float(plain.abs().max())
    failures: list[str] = []
    for packed in (True, False):
        try:
            block = pack(groups, [(0,), (1,), (2,)], "all", packed)
            difference = float((_ablated(lm, block, site, resume=True) - plain).abs().max())
        except Exception as error:  # noqa: BLE001  a family that refuses the mask falls back, and is refused by name if that fails
            failures.append(str(error).splitlines()[0][:120] if str(error) else type(error).__name__)
            continue
        if difference <= tolerance:
            return replace(lm, packed=packed)
        failures.append(f"logits differ by {difference:.2g}")
    raise DataError(
        f"model {lm.name} cannot be measured exactly: packed: {failures[0]}; one sequence a row: "
        f"{failures[1]} (tolerance {tolerance:.2g}); "
        "use a GPT-2, GPT-Neo, Llama, Gemma, GPT-NeoX, Qwen2, OPT or MPT model"
    )


def _ablated(lm: LM, block: Block, site: Site, *, resume: bool) -> Float[Tensor, "place d_vocab"]:
    """The logits of each sequence's last node with one head zeroed, in the order of the sequences."""
    head = site.head

    def zero(act: Tensor) -> Tensor:
        act = act.clone()
        act[:, :, head] = 0
        return act

    with torch.no_grad():
        start = forward.clean(lm, block) if resume else None
        return forward.run(lm, block, {site.hook: zero}, layer=site.layer, start=start)[0, block.readout]
