"""Kinds of edits, what each is fitted to, and their effects: exact, several edits a pass.

A site of an edit gets an affine map whose numbers are fixed beforehand: it works on prompts that nobody has
seen, and can leave as a file.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor

from biasscope.engine.errors import DataError
from biasscope.engine.measure.effects import defined, effects, soundly
from biasscope.engine.measure.sources import SWEPT
from biasscope.engine.model import forward, loading
from biasscope.engine.model.edits.affine import Affine
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import ROWS, Block, Scored, rows
from biasscope.engine.model.tokens import Forest, encode
from biasscope.engine.types import EDIT, Edit, Example, Site, Unit

Array = NDArray[np.float64]
Reading = Callable[[forward.Readouts], Mapping[str, Tensor]]
"""What is read of a pass: metric → its values, `copy example`."""
LOSS = "nll"
"""The metric of a text: the loss of each token, nats."""


def at_heads(kind: str, vectors: Mapping[Site, Tensor | None], dose: float) -> dict[Site, Affine]:
    """The maps of `mean`, `zero` or `project` at some heads.

    `vectors`: what each head needs: its mean, nothing, or the unit vector along which it must not write.
    """
    if kind == "zero":
        return {site: Affine(1 - dose) for site in vectors}
    known = {site: vector.double() for site, vector in vectors.items() if vector is not None}
    if kind == "mean":
        return {site: Affine(1 - dose, bias=(dose * m).float()) for site, m in known.items()}
    return {site: Affine(left=(dose * a).float(), right=a.float()) for site, a in known.items()}


@dataclass(frozen=True)
class Direction:
    """What `erase` or `steer` takes from activations and a label."""

    left: Array
    """What is written: σ / (aᵀσ), or v."""
    right: Array | None = None
    """What is read: a = Σ⁻¹σ; None: nothing (`steer`)."""
    centre: Array | None = None
    """The mean activation μ."""

    def at(self, layer: int, dose: float) -> dict[Site, Affine]:
        """The map of a layer's input: x − d left rightᵀ(x − μ) but at the first position; or x + d left."""
        site = Site(layer, "resid_pre")
        if self.right is None or self.centre is None:
            return {site: Affine(bias=_tensor(dose * self.left))}
        back = dose * self.left * float(self.right @ self.centre)
        return {site: Affine(1.0, _tensor(dose * self.left), _tensor(self.right), _tensor(back), first=False)}


def _tensor(vector: Array) -> Tensor:
    return torch.from_numpy(np.asarray(vector, np.float32))


def erasure(x: Array, label: Array, *, shrink: bool = True) -> Direction:
    """The least change of x, `text d`, after which no linear map of it tells a graded label.

    LEACE for one label (Belrose et al. 2023): x − σ aᵀ(x − μ) / (aᵀσ), σ = cov(x, label), a = Σ⁻¹σ, Σ by
    Ledoit and Wolf's shrinkage.
    """
    centre, y = x.mean(0), label - label.mean()
    centred = x - centre
    sigma = centred.T @ y / len(x)
    if shrink:
        a = np.linalg.solve(LedoitWolf(assume_centered=True).fit(centred).covariance_, sigma)
    else:
        a = np.linalg.lstsq(centred.T @ centred / len(x), sigma, rcond=None)[0]
    return Direction(sigma / (a @ sigma), a, centre)


def difference(x: Array, label: Array, middle: float) -> Direction:
    """The mean of x, `text d`, over texts with a label above the middle, less that over those below."""
    return Direction(x[label > middle].mean(0) - x[label <= middle].mean(0))


def contrast(lm: LM, one: str, other: str) -> Tensor:
    """The direction of the last residual stream that parts two words' logits: γ ⊙ (W_U[one] − W_U[other]).

    Of words of several tokens: of the first that differs. γ, the final norm's weight, is found by what the
    norm makes of ±1 in turn (mean 0, mean square 1). DataError where one word begins with all of the other.
    """
    words = lm.bridge.original_model.get_output_embeddings().weight
    pairs = zip(encode(lm, one), encode(lm, other), strict=False)
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if first is None:
        raise DataError(
            f"--kind project: '{one}' and '{other}' are the same as far as both go, so no token tells which "
            "of them follows; take --kind mean or zero"
        )
    sides = [words[token] for token in first]
    turns = torch.ones(lm.d_model).to(words)
    turns[1::2] = -1
    with torch.no_grad():
        up, down = (lm.bridge.ln_final(x[None, None])[0, 0] for x in (turns, -turns))
    return ((up - down) / 2 * turns * (sides[0] - sides[1])).double().cpu()


def written(lm: LM, head: Site, direction: Tensor) -> Tensor:
    """The unit vector of a head's z along which it writes that direction: W_O u / size; 0: it never does."""
    out = lm.bridge.blocks[head.layer].attn.W_O[head.head].double().cpu()
    along: Tensor = out @ direction
    return along / along.norm() if along.norm() > 0 else along


def units(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Edit],
    batch: int | None = None,
    metrics: Sequence[str] = SWEPT,
) -> list[Unit]:
    """EFFECTS of the edits (component `edit`, position: its name) by row block and as many as a pass has."""
    return _units(lm, forest, wanted, loading.batch_size(lm, batch), _metrics(metrics))


def _metrics(metrics: Sequence[str]) -> Reading:
    return lambda readouts: {m: METRICS[m].fn(readouts) for m in metrics}


def _units(lm: LM, forest: Forest, wanted: Sequence[Edit], size: int, reading: Reading) -> list[Unit]:
    start = lru_cache(maxsize=1)(partial(forward.clean, lm))
    # a pass is resumed from the first layer that any of its copies edits
    order = sorted(wanted, key=lambda edit: min(site.layer for site in edit.at))

    def compute(some: Sequence[Edit], block: Block) -> dict[str, pl.DataFrame]:
        clean = start(block)
        read = reading(forward.edited(lm, block, clean, [edit.puts(block) for edit in some]))
        after = {metric: values.cpu().numpy() for metric, values in read.items()}
        before = {
            metric: defined(metric, clean.readouts) if metric in METRICS else _all(values)
            for metric, values in reading(clean.readouts).items()
        }
        frames = []
        for copy, edit in enumerate(some):
            values = {metric: numbers[copy : copy + 1] for metric, numbers in after.items()}
            frames.append(effects(forest, block, edit.kind, [(EDIT, edit.name)], before, values))
        return {"effects": pl.concat(frames)}

    pieces = []
    for number, block in enumerate(forest.blocks if wanted else ()):
        copies = max(1, size // block.ids.numel())
        for first in range(0, len(order), copies):
            some = partial(compute, order[first : first + copies])
            pieces.append(Unit(f"B{number:05}-E{first:05}", partial(soundly, some, block)))
    return pieces


def _all(values: Tensor) -> np.ma.MaskedArray:
    """A clean metric that every example has."""
    return np.ma.MaskedArray(values[0].cpu().numpy(), mask=np.zeros(values.shape[1], bool))


def text(lm: LM, paragraphs: Sequence[str], tokens: int) -> Forest:
    """Prose as a forest in which each token after a paragraph's first is an example; groups: paragraphs.

    As many whole paragraphs as hold that many tokens; the first token of each is read, not scored.
    """
    examples: list[Example] = []
    scored: list[list[Scored]] = []
    for number, paragraph in enumerate(paragraphs):
        ids = encode(lm, paragraph)[: min(lm.context, ROWS["all"])]
        group = f"p{number:05}"
        for t in range(1, len(ids)):
            examples.append(Example(f"{group}.{t:03}", "text", "", group, "", "", ""))
            scored.append([Scored(ids[: t + 1], t, 0)])
        if len(examples) >= tokens:
            break
    blocks = rows(scored, min(ROWS["all"], lm.window), "all", lm.packed)
    return Forest(tuple(blocks), tuple(examples), Counter(), Counter())


def loss_units(lm: LM, forest: Forest, wanted: Sequence[Edit], batch: int | None = None) -> list[Unit]:
    """EFFECTS of the edits on the loss of each token of a `text`; few copies a pass: all is unembedded."""
    # the divergence at each token is not asked for
    blocks = tuple(_unread(block) for block in forest.blocks)
    size = loading.batch_size(lm, batch) // 4
    return _units(lm, replace(forest, blocks=blocks), wanted, size, lambda r: {LOSS: -r.logp[..., 0]})


def _unread(block: Block) -> Block:
    """The block with one readout in place of all of its examples' own."""
    return replace(block, readout=torch.full_like(block.readout, int(block.readout[0])))
