"""Activations at named positions of texts, for probes and other tools: a row per text, site and position."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.measure.effects import soundly
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import ROWS, Block, Scored, pack, rows
from biasscope.engine.model.tokens import encode, term_places
from biasscope.engine.schemas import ACTIVATIONS
from biasscope.engine.types import UNEDITED, Edit, Site, Unit

POSITIONS = ("last", "term", "mean")
COMPONENTS = ("resid", "z", "mlp_out")
NOT_FINITE = "its activations are not finite"
"""Why a text that can be read is in no table."""


@dataclass(frozen=True)
class Text:
    """A text to read, as tokens."""

    id: str
    ids: tuple[int, ...]
    term: int | None
    """Index of the last token of its term; None where the text does not name it."""


def text(lm: LM, id: str, words: str, term: str) -> Text | str:  # noqa: A002  the name of the column
    """The text as tokens, or the reason why it cannot be read.

    The term is found as written, as a whole word, at its last place, upper and lower case alike.
    """
    ids = encode(lm, words)
    if not ids:
        return "no token before the readout"
    if len(ids) > lm.context:
        return f"longer than the model's context of {lm.context} tokens"
    places = term_places(lm, words, term)
    return Text(id, ids, places[-1][-1] if places else None)


def sites(lm: LM, component: str) -> list[Site]:
    """The hook points of a component; `resid`: what enters each layer and leaves the last, n_layers + 1."""
    if component == "resid":
        return [
            *(Site(layer, "resid_pre") for layer in range(lm.n_layers)),
            Site(lm.n_layers - 1, "resid_post"),
        ]
    if component not in COMPONENTS:
        raise UsageError(f"no activations of '{component}'; choose from: {', '.join(COMPONENTS)}")
    return [Site(layer, component) for layer in range(lm.n_layers)]


def units(lm: LM, texts: Sequence[Text], component: str, position: str, edit: Edit = UNEDITED) -> list[Unit]:
    """ACTIVATIONS of every text, in the model in which the edit stands, in pieces of one row block each.

    DataError where no text has the position.
    """
    kept = [t for t in texts if position != "term" or t.term is not None]
    if not kept:
        raise DataError(
            f"no text names its term: position '{position}' has nothing to read; try --position last"
        )
    # a text's last token is read, not predicted: the 0 behind it stands for nothing
    scored = [[Scored((*t.ids, 0), len(t.ids), 0)] for t in kept]
    blocks = rows(scored, min(ROWS["example"], lm.window), "all", lm.packed)
    wanted = sites(lm, component)

    def read(block: Block) -> dict[str, pl.DataFrame]:
        acts, _ = forward.capture(lm, block, wanted, edit.puts(block))
        return _read(lm, kept, acts, position, block)

    return [Unit(f"B{number:05}", partial(_finite, read, block)) for number, block in enumerate(blocks)]


def attention(lm: LM, ids: Sequence[int], head: Site) -> Float[Tensor, "dest_pos src_pos"]:
    """The weights with which a head attends, a row per token: each sums to 1 over the tokens up to it."""
    # its last token is read, not predicted: the 0 behind it stands for nothing
    block = pack([[Scored((*ids, 0), len(ids), 0)]], [(0,)], "all", False)
    row = Site(head.layer, "weights")
    return forward.capture(lm, block, [row])[0][row][0, head.head].float().cpu()


def _finite(read: Callable[[Block], dict[str, pl.DataFrame]], block: Block) -> dict[str, pl.DataFrame]:
    """One block's ACTIVATIONS without the texts that have any which is not finite."""
    table = soundly(read, block)["activations"]
    bad = table.filter(pl.col("values").list.eval(pl.element().is_finite().not_()).list.any())[
        "example_id"
    ].unique()
    return {
        "activations": table.filter(pl.col("example_id").is_in(bad.implode()).not_()) if bad.len() else table
    }


def _read(
    lm: LM, texts: Sequence[Text], acts: Mapping[Site, Tensor], position: str, block: Block
) -> dict[str, pl.DataFrame]:
    """One block's ACTIVATIONS, in the order of its texts, then of the sites."""
    row, paths = block.places[block.readout, 0], block.paths
    members = [(texts[i], local) for local, same in enumerate(block.examples) for i in same]
    local = torch.tensor([k for _, k in members])
    chosen = torch.stack([_weights(t, paths[k], block.depth[row[k]], position) for t, k in members])
    frames = []
    for site, act in acts.items():
        act = act.float().cpu()[row[local]].flatten(2 if site.component != "z" else 3)
        values = torch.einsum("tn,tn...->t...", chosen, act)
        heads: list[int | None] = [None] if site.component != "z" else list(range(lm.n_heads))
        for head in heads:
            part = values if head is None else values[:, head]
            frames.append(_frame([t.id for t, _ in members], site, head, position, part))
    return {"activations": pl.concat(frames)}


def _weights(t: Text, path: Bool[Tensor, " node"], depth: Tensor, position: str) -> Float[Tensor, " node"]:
    """How much of each node a position takes: one node, or an equal share of all."""
    if position == "mean":
        return path / path.sum()
    index = len(t.ids) - 1 if position == "last" else t.term
    return (path & (depth == index)).float()


def _frame(
    ids: list[str], site: Site, head: int | None, position: str, values: Float[Tensor, "text d"]
) -> pl.DataFrame:
    place = {"component": site.component, "layer": site.layer, "head": head, "position": position}
    columns = {name: pl.Series([value] * len(ids), dtype=ACTIVATIONS[name]) for name, value in place.items()}
    floats = pl.Series(values.numpy(), dtype=pl.Array(pl.Float32, values.shape[1])).cast(pl.List(pl.Float32))
    return pl.DataFrame({"example_id": ids, **columns, "values": floats}, schema=ACTIVATIONS)
