"""Sources that replace activations, and the exact sweep: every site's effect measured by running the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from biasscope.engine import budget, donors, forward
from biasscope.engine.effects import Place, defined, effects, total
from biasscope.engine.errors import UsageError
from biasscope.engine.means import means
from biasscope.engine.metrics import METRICS
from biasscope.engine.models import LM
from biasscope.engine.packing import Block
from biasscope.engine.soundness import soundly
from biasscope.engine.tokens import Forest
from biasscope.engine.types import Site, Track, Unit, silent

ABLATION_METRICS = ("target", "competence", "kl")


@dataclass(frozen=True)
class Source:
    """What replaces an activation."""

    name: str
    at: Callable[[Block, Site], Tensor]
    """The replacement at a site: [row node …] in the shape of its activation, or one number for all of it."""
    twin: bool = False
    """Whether it takes the activations of the counterfactual prompt, token for token."""

    def where(self, block: Block, site: Site, part: Tensor | None = None) -> Tensor | None:
        """The nodes, of a part of the block (None: all), that are replaced.

        At depth 0 the residual stream is an attention sink, which only a twin replaces.
        """
        if not site.component.startswith("resid") or self.twin:
            return part
        return block.depth > 0 if part is None else part & (block.depth > 0)

    def put(self, block: Block, site: Site, part: Tensor | None = None) -> forward.Put:
        """What stands at a site of a block instead of its activation."""
        return forward.Put(self.at(block, site), self.where(block, site, part))


def sites(lm: LM, components: Sequence[str], layers: Sequence[int] | None = None) -> list[Site]:
    """The sites of those components in the layers (all by default), heads one by one. UsageError outside the model."""
    wanted = list(range(lm.n_layers) if layers is None else layers)
    wrong = [layer for layer in wanted if not 0 <= layer < lm.n_layers]
    if wrong:
        raise UsageError(f"layer {wrong[0]} is not in {lm.name}; it has layers 0-{lm.n_layers - 1}")
    heads = {"z": list(range(lm.n_heads))}
    return [Site(layer, c, h) for layer in wanted for c in components for h in heads.get(c, [None])]


def whole(site: Site) -> Site:
    """The hook point that a site is part of."""
    return Site(site.layer, site.component)


def zero(lm: LM) -> Source:
    """Nothing at all: off the model's distribution, but the strongest removal."""
    return Source("zero", lambda block, site: torch.zeros((), device=lm.device))


def mean_of(lm: LM, table: pl.DataFrame) -> Source:
    """The source that puts the means of the table."""
    found: dict[Site, list[Tensor]] = {}
    for row in table.sort("first", descending=True).iter_rows(named=True):
        found.setdefault(Site(row["layer"], row["component"]), []).append(torch.tensor(row["values"], dtype=torch.float64))
    means = {site: torch.stack(both).to(device=lm.device, dtype=getattr(torch, lm.dtype)) for site, both in found.items()}

    def at(block: Block, site: Site) -> Tensor:
        values = means[whole(site)]
        if site.component == "z":
            values = values.view(2, lm.n_heads, -1)
        return (values if site.head is None else values[:, site.head])[(block.depth > 0).long()]

    return Source("mean", at)


def corrupt(lm: LM, wanted: Sequence[Site], name: str = "corrupt") -> Source:
    """The activations of the counterfactual prompts, node for node: of swapped blocks the clean ones (denoising)."""
    points = sorted({whole(s) for s in wanted})
    act = _last(lambda block: forward.capture(lm, block.swapped(), points)[0])
    return Source(name, lambda block, site: _of(act(block), site), twin=True)


def resample(lm: LM, forest: Forest, wanted: Sequence[Site], seed: int) -> Source:
    """The activations of other prompts: each node takes those of a seeded node of the same depth, one donor for all sites.

    See `donors` for how they are drawn. A donor whose own pass is not finite is drawn again.
    """
    points = sorted({whole(s) for s in wanted})
    pool = donors.pool(forest)

    def donated(block: Block) -> dict[Site, Tensor]:
        takers = [(place, block.prefix(*place)) for place in (block.owner >= 0).nonzero().tolist()]
        found: dict[Site, Tensor] = {}
        for attempt in range(donors.ATTEMPTS):
            drawn = [donors.of(pool, prefix, seed, attempt) for _, prefix in takers]
            number = {donor: i for i, donor in enumerate(dict.fromkeys(drawn))}
            acts, at = donors.activations(lm, list(number), points), torch.tensor([number[donor] for donor in drawn])
            row, node = torch.tensor([place for place, _ in takers]).T
            for point, act in acts.items():
                found.setdefault(point, act.new_zeros(*block.ids.shape, *act.shape[1:]))[row, node] = act[at]
            finite = torch.stack([act.flatten(1).isfinite().all(1) for act in acts.values()]).all(0)[at]
            takers = [taker for taker, fine in zip(takers, finite.tolist(), strict=True) if not fine]
            if not takers:
                break
        return found

    act = _last(donated)
    return Source("resample", lambda block, site: _of(act(block), site))


def _last(of: Callable[[Block], dict[Site, Tensor]]) -> Callable[[Block], dict[Site, Tensor]]:
    """The function, remembering its last block: a sweep goes block by block, so one is enough."""
    kept: list[tuple[Block, dict[Site, Tensor]]] = []

    def remembered(block: Block) -> dict[Site, Tensor]:
        if not kept or kept[0][0] is not block:
            kept[:] = [(block, of(block))]
        return kept[0][1]

    return remembered


def _of(acts: Mapping[Site, Tensor], site: Site) -> Tensor:
    """A site's part of the activations of its hook point."""
    act = acts[whole(site)]
    return act if site.head is None else act[:, :, site.head]


def source(name: str, lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent, seed: int = 0) -> Source:
    """The source of that name, ready for the wanted sites; UsageError for any other name. `clean` is `corrupt` of swapped blocks."""
    make: dict[str, Callable[[], Source]] = {
        "zero": lambda: zero(lm),
        "mean": lambda: mean_of(lm, means(lm, forest, wanted, track)),
        "resample": lambda: resample(lm, forest, wanted, seed),
        **{twin: lambda: corrupt(lm, wanted, name) for twin in ("corrupt", "clean")},
    }
    if name not in make:
        raise UsageError(f"no source '{name}'; choose from: {', '.join(make)}")
    return make[name]()


def sweep(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Site],
    source: Source,
    *,
    positions: Sequence[str] = ("all",),
    given: Sequence[Site] = (),
    metrics: Sequence[str] = ABLATION_METRICS,
    batch: int | None = None,
    track: Track = silent,
) -> pl.DataFrame:
    """EFFECTS of replacing each site alone, at each position, by the source, exact: one row per example, site, position and metric.

    With `given`, those sites are replaced all the while: baseline and value are of the model without them.
    """
    found = units(lm, forest, wanted, source, positions=positions, given=given, metrics=metrics, batch=batch)
    return pl.concat(unit.compute()["effects"] for unit in track(found, f"ablate ({source.name})"))


def units(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Site],
    source: Source,
    *,
    positions: Sequence[str] = ("all",),
    given: Sequence[Site] = (),
    metrics: Sequence[str] = ABLATION_METRICS,
    batch: int | None = None,
) -> list[Unit]:
    """The sweep in pieces of one layer and one row block each; neighbours share the block's clean pass.

    With a twin's activations, each block has a unit more: the total effect of its prompts exchanged for their twins.
    """
    size = budget.batch_size(lm, batch)
    by_layer: dict[int, list[Place]] = {}
    for site in wanted:
        by_layer.setdefault(site.layer, []).extend((site, position) for position in positions)

    @lru_cache(maxsize=1)
    def start(block: Block) -> tuple[forward.Clean, forward.Edit]:
        gone = {site: source.put(block, site) for site in given}
        return forward.clean(lm, block, gone), gone

    def compute(layer: int, block: Block) -> dict[str, pl.DataFrame]:
        clean, gone = start(block)
        later = {site: put for site, put in gone.items() if site.layer >= layer}  # what is before it is in the residual stream
        return {"effects": _unit(lm, forest, block, clean, later, by_layer[layer], source, metrics, size)}

    def whole_prompt(block: Block) -> dict[str, pl.DataFrame]:
        return {"effects": total(lm, forest, block, source.name, metrics)}

    found = []
    for number, block in enumerate(forest.blocks):
        found += [Unit(f"B{number:05}-L{layer:03}", partial(soundly, partial(compute, layer), block)) for layer in sorted(by_layer)]
        found += [Unit(f"B{number:05}-total", partial(soundly, whole_prompt, block))] if source.twin else []
    return found


def _unit(
    lm: LM,
    forest: Forest,
    block: Block,
    start: forward.Clean,
    given: forward.Edit,
    places: Sequence[Place],
    source: Source,
    metrics: Sequence[str],
    size: int,
) -> pl.DataFrame:
    """EFFECTS of one layer's sites on one block, as many copies a pass as the batch size allows."""
    copies = max(1, size // block.ids.numel())
    before = {m: defined(m, start.readouts) for m in metrics}
    after: dict[str, list[np.ndarray]] = {m: [] for m in metrics}
    parts = {position: forest.where(block, position) for _, position in places}
    for first in range(0, len(places), copies):
        edits = [{**given, site: source.put(block, site, parts[position])} for site, position in places[first : first + copies]]
        readouts = forward.edited(lm, block, start, edits)
        for m in metrics:
            after[m].append(METRICS[m].fn(readouts).cpu().numpy())
    return effects(forest, block, source.name, places, before, {m: np.concatenate(a) for m, a in after.items()})
