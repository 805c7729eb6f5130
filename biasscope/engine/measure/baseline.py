"""The clean model's scores, per example: what `baseline` measures."""

from functools import partial

import numpy as np
import polars as pl
import torch

from biasscope.engine import types
from biasscope.engine.measure.effects import defined, soundly
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import SENTENCES, sentence_logp
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.schemas import SCORES, TRIPLES
from biasscope.engine.types import UNEDITED, Edit, Track, Unit, silent

CLEAN = tuple(name for name, metric in types.METRICS.items() if metric.clean)
"""What the baseline has."""


def baseline(
    lm: LM, forest: Forest, edit: Edit = UNEDITED, *, track: Track = silent
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """SCORES of the clean model, and TRIPLES, 2^(mean log₂ p) of each sentence as published, if any."""
    tables = [unit.compute() for unit in track(units(lm, forest, edit), "baseline")]
    return pl.concat(f["scores"] for f in tables), pl.concat(f["triples"] for f in tables)


def units(lm: LM, forest: Forest, edit: Edit = UNEDITED) -> list[Unit]:
    """The clean pass, or that of the model in which an edit stands, in pieces of one row block each."""
    return [
        Unit(f"B{number:05}", partial(soundly, partial(_scores, lm, forest, edit), block))
        for number, block in enumerate(forest.blocks)
    ]


def _scores(lm: LM, forest: Forest, edit: Edit, block: Block) -> dict[str, pl.DataFrame]:
    """SCORES and TRIPLES of one block."""
    with torch.no_grad():
        readouts = forward.read(block, forward.run(lm, block, forward.overwrites([edit.puts(block)])))
    examples, of = forest.members(block)
    who = {"example_id": [e.id for e in examples], "group": [e.group for e in examples]}
    who["dataset"] = [e.dataset for e in examples]
    scores = []
    for m in CLEAN:
        values = defined(m, readouts)
        table = pl.DataFrame({**who, "metric": [m] * len(examples), "value": values.data[of]})
        scores.append(table.filter(pl.Series(~np.ma.getmaskarray(values)[of])))
    means, whole = block.per_token.to(readouts.count.device), readouts.count[:, SENTENCES] > 0
    logp = torch.where(means[:, None], readouts.logp[..., :3], sentence_logp(readouts))[0]
    each = logp.exp().cpu().numpy()[of]
    splits = ["intersentence" if e.per_token else "intrasentence" for e in examples]
    kind = {"split": splits, "bias_type": [e.bias_type for e in examples]}
    columns = {"stereo": each[:, 0], "anti": each[:, 1], "unrelated": each[:, 2]}
    triples = pl.DataFrame({**kind, "example_id": who["example_id"], "group": who["group"], **columns})
    complete = torch.where(means, (readouts.count[:, :3] > 0).all(1), whole.all(1))
    has = pl.Series(complete.cpu().numpy()[of])
    return {
        "scores": pl.concat(scores).select(SCORES.names()),
        "triples": triples.filter(has).select(TRIPLES.names()),
    }
