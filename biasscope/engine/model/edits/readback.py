"""What was written, read back by transformers and compared with the hooked model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from biasscope.engine.errors import DataError
from biasscope.engine.model import forward, tokens
from biasscope.engine.model.edits.saving import Place
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Scored
from biasscope.engine.types import Example

CLOSE = 1e-3
"""Nats by which the target of a model that is read back may differ from the hooked one's."""


def difference(place: Place, folder: Path, form: str, examples: Sequence[Example]) -> float:
    """The largest difference of target between the hooked model and what transformers reads back, nats."""
    if form == "ia3":
        from peft import PeftModel

        reloaded: Any = PeftModel.from_pretrained(place.plain(), str(folder)).eval()
    else:
        reloaded = place.plain(folder)
    hooked = _hooked(replace(place.lm, edit=place.edit), examples)
    apart = [abs(_target(reloaded, place.lm, e) - hooked[e.id]) for e in examples if e.id in hooked]
    return max(apart)


def check(place: Place, folder: Path, form: str, examples: Sequence[Example]) -> float:
    """That difference. DataError where it is more than `CLOSE`."""
    apart = difference(place, folder, form, examples)
    if apart <= CLOSE:
        return apart
    dtype = place.lm.dtype
    why = f"this family cannot hold {place.edit.name}; {place.alternative}"
    if dtype != "float32":
        why = f"{dtype} rounds more than that; measure with --dtype float32, or use --as recipe"
    differs = f"what is read back differs from the edited model by {apart:.2g} nats"
    raise DataError(f"--as {form}: {differs} ({why})")


def _hooked(lm: LM, examples: Sequence[Example]) -> dict[str, float]:
    """Example id → target of the model in which the edit stands."""
    forest, found = tokens.forest(lm, examples), dict[str, float]()
    for block in forest.blocks:
        with torch.no_grad():
            readouts = forward.read(block, forward.run(lm, block, {}))
        values = METRICS["target"].fn(readouts)[0].tolist()
        members, of = forest.members(block)
        found |= {e.id: values[local] for e, local in zip(members, of, strict=True)}
    return found


def _target(model: Any, lm: LM, example: Example) -> float:
    """Σ log p of the first side's continuation less that of the second, by plain passes of a model."""
    one, other = (_logp(model, scored) for scored in _scored(lm, example))
    return one - other


def _scored(lm: LM, example: Example) -> Iterator[Scored]:
    for each in tokens.continuations(lm, example, example.sides[:2]):
        if isinstance(each, Scored):
            yield each


def _logp(model: Any, scored: Scored) -> float:
    """Σ log p of a continuation, or its mean where it is compared so."""
    ids = torch.tensor([scored.ids])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0].float().log_softmax(-1)
    places = range(scored.first, len(scored.ids))
    total = sum(float(logp[t - 1, scored.ids[t]]) for t in places)
    return total / len(places) if scored.per_token else total
