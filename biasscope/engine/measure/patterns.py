"""PATTERNS: where heads look from the readout of each prompt, exact, in one clean pass over the forest."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np
import polars as pl

from biasscope.engine.measure.effects import Tables, soundly
from biasscope.engine.model import attention, tokens
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.schemas import PATTERNS
from biasscope.engine.types import UNEDITED, Edit, Example, Site, Unit

Wanted = Mapping[Site, Collection[str]]
"""Head → the ids of the examples in which it is looked at."""


def units(lm: LM, forest: Forest, wanted: Wanted, edit: Edit = UNEDITED) -> list[Unit]:
    """PATTERNS of each head's examples, in the model in which the edit stands, a unit a row block."""
    read = partial(_patterns, lm, forest, wanted, edit)
    return [Unit(f"B{number:05}", partial(_sound, read, block)) for number, block in enumerate(forest.blocks)]


def _sound(read: Callable[[Block], Tables], block: Block) -> Tables:
    """PATTERNS of a block; weights that are not finite spread to no other prompt, and are null."""
    return {name: table.fill_nan(None) for name, table in soundly(read, block).items()}


def _patterns(lm: LM, forest: Forest, wanted: Wanted, edit: Edit, block: Block) -> dict[str, pl.DataFrame]:
    """PATTERNS of one block, in the order of heads, then examples, then tokens."""
    weights = attention.readouts(lm, block, list(wanted), edit.puts(block))
    examples, of = forest.members(block)
    paths = [block.paths[local].nonzero()[:, 0] for local in of]
    texts = [_tokens(lm, example) for example in examples]
    frames = []
    for head, rows in weights.items():
        kept = [n for n, example in enumerate(examples) if example.id in wanted[head]]
        if kept:
            looked = np.concatenate([rows[of[n], paths[n]].numpy() for n in kept])
            here = {"layer": pl.lit(head.layer, pl.Int32), "head": pl.lit(head.head, pl.Int32)}
            words = pl.concat([texts[n] for n in kept])
            frames.append(words.with_columns(**here, weight=pl.Series(looked, dtype=pl.Float32)))
    table = pl.concat(frames) if frames else PATTERNS.to_frame()
    return {"patterns": table.select(PATTERNS.names())}


def _tokens(lm: LM, example: Example) -> pl.DataFrame:
    """The tokens of an example's prompt, and which are its term's."""
    pieces, term = tokens.pieces(lm, example.prompt), tokens.term_tokens(lm, example)
    node = pl.Series(range(len(pieces)), dtype=pl.Int32)
    columns = {"node": node, "token": pieces, "term": [i in term for i in range(len(pieces))]}
    return pl.DataFrame({"example_id": example.id, "dataset": example.dataset, **columns})
