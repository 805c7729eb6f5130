"""Sources: what replaces an activation, and the donor positions of `resample`.

A donor's node is named by its prefix, the ids from the first token to its own, and not by where it was
packed: exact effects and gradient estimates, whose forests share nodes differently, take the same donors.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.measure.between import attention
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import ROWS, Block, Scored, rows
from biasscope.engine.model.tokens import Forest
from biasscope.engine.schemas import MEANS
from biasscope.engine.types import METRICS, UNEDITED, Edit, Site, Track, silent

SWEPT = tuple(name for name, metric in METRICS.items() if metric.swept)
"""What an exact sweep measures."""
ATTEMPTS = 20
"""How often a donor is drawn, as long as its activations are not finite."""
Prefix = tuple[int, ...]
Pool = Mapping[int, tuple[list[Prefix], np.ndarray]]
"""Length → the prefixes of that length in the order of their ids, and the examples using them, cumulated."""
_DONOR = 41
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """What replaces an activation."""

    name: str
    at: Callable[[Block, Site], Tensor]
    """The replacement at a site: [row node …] in the shape of its activation, or one number for all of it."""
    twin: bool = False
    """Whether it takes the activations of the counterfactual prompt, token for token."""
    read: Callable[[Block], forward.Readouts] | None = None
    """What the model says of a block's counterfactual prompts, where their activations were taken in full."""

    def where(self, block: Block, site: Site, part: Tensor | None = None) -> Tensor | None:
        """The nodes, of a part of the block (None: all), that are replaced.

        At depth 0 the residual stream is an attention sink, which only a twin replaces.
        """
        if not site.component.startswith("resid") or self.twin:
            return part
        return block.depth > 0 if part is None else part & (block.depth > 0)

    def put(self, block: Block, site: Site, part: Tensor | None = None) -> forward.Put:
        """The replacement at a site of a block, and the nodes that get it."""
        return forward.Put(self.at(block, site), self.where(block, site, part))


@dataclass(frozen=True)
class Sweep:
    """What a scan replaces, by what, where, and what it measures."""

    sites: Sequence[Site]
    source: Source
    positions: Sequence[str] = ("all",)
    metrics: Sequence[str] = SWEPT
    """An estimate is of the first alone."""
    edit: Edit = UNEDITED
    """What is replaced throughout."""

    @property
    def places(self) -> list[tuple[Site, str]]:
        """Every site at every position."""
        return [(site, position) for site in self.sites for position in self.positions]


def removed(sites: Sequence[Site], source: Source) -> Edit:
    """The edit that replaces these sites by the source throughout."""
    return Edit(dict.fromkeys(sites, source))


def sites(lm: LM, components: Sequence[str], layers: Sequence[int] | None = None) -> list[Site]:
    """The sites of those components in the layers (None: all), each part alone. UsageError outside them."""
    wanted = list(range(lm.n_layers) if layers is None else layers)
    wrong = [layer for layer in wanted if not 0 <= layer < lm.n_layers]
    if wrong:
        raise UsageError(f"layer {wrong[0]} is not in {lm.name}; it has layers 0-{lm.n_layers - 1}")
    return [Site(layer, c, part) for layer in wanted for c in components for part in _parts(lm, c)]


def _parts(lm: LM, component: str) -> Sequence[int | None]:
    count = lm.parts(component)
    return [None] if count is None else range(count)


def whole(site: Site) -> Site:
    """The hook point that a site is part of."""
    return Site(site.layer, site.component)


def zero(lm: LM) -> Source:
    """Zero ablation: the strongest removal, and off the model's distribution."""
    return Source("zero", lambda block, site: torch.zeros((), device=lm.device))


def mean_of(lm: LM, table: pl.DataFrame) -> Source:
    """The source that puts the means of the table."""
    by_site: dict[Site, list[list[float]]] = defaultdict(list)
    for row in table.sort("first", descending=True).iter_rows(named=True):
        by_site[Site(row["layer"], row["component"])].append(row["values"])
    kind = {"device": lm.device, "dtype": getattr(torch, lm.dtype)}
    means = {site: torch.tensor(both, dtype=torch.float64).to(**kind) for site, both in by_site.items()}

    def at(block: Block, site: Site) -> Tensor:
        values = means[whole(site)]
        if (parts := lm.parts(site.component)) is not None and site.component != "neuron":
            values = values.view(2, parts, -1)
        return (values if site.head is None else values[:, site.head])[(block.depth > 0).long()]

    return Source("mean", at)


def corrupt(lm: LM, wanted: Sequence[Site], name: str = "corrupt") -> Source:
    """The activations of the counterfactual prompts, node for node: of swapped blocks the clean ones."""
    points = sorted({whole(s) for s in wanted})
    ran = _last(lambda block: attention.twins(lm, block, points))
    return Source(name, lambda block, site: _of(ran(block)[0], site), True, lambda block: ran(block)[1])


def resample(lm: LM, forest: Forest, wanted: Sequence[Site], seed: int) -> Source:
    """The activations of other prompts: each node takes a seeded one's of its depth, a donor for all sites.

    See `pool` and `donor_of` for how they are drawn. A donor whose own pass is not finite is drawn again.
    """
    points = sorted({whole(s) for s in wanted})
    prefixes = pool(forest)

    def donated(block: Block) -> dict[Site, Tensor]:
        takers = [(place, block.prefix(*place)) for place in (block.owner >= 0).nonzero().tolist()]
        replacements: dict[Site, Tensor] = {}
        for attempt in range(ATTEMPTS):
            drawn = [donor_of(prefixes, prefix, seed, attempt) for _, prefix in takers]
            number = {donor: i for i, donor in enumerate(dict.fromkeys(drawn))}
            acts = donor_activations(lm, list(number), points)
            at = torch.tensor([number[donor] for donor in drawn])
            row, node = torch.tensor([place for place, _ in takers]).T
            for point, act in acts.items():
                empty = act.new_zeros(*block.ids.shape, *act.shape[1:])
                replacements.setdefault(point, empty)[row, node] = act[at]
            finite = torch.stack([act.flatten(1).isfinite().all(1) for act in acts.values()]).all(0)[at]
            takers = [taker for taker, fine in zip(takers, finite.tolist(), strict=True) if not fine]
            if not takers:
                break
        return replacements

    act = _last(donated)
    return Source("resample", lambda block, site: _of(act(block), site))


def _last(of: Callable[[Block], T]) -> Callable[[Block], T]:
    """The function, remembering its last block: a sweep goes block by block, so one is enough."""
    kept: list[tuple[Block, T]] = []

    def remembered(block: Block) -> T:
        if not kept or kept[0][0] is not block:
            kept[:] = [(block, of(block))]
        return kept[0][1]

    return remembered


def _of(acts: Mapping[Site, Tensor], site: Site) -> Tensor:
    """A site's part of the activations of its hook point."""
    act = acts[whole(site)]
    return act if site.head is None else act[:, :, site.head]


def source(name: str, lm: LM, forest: Forest, wanted: Sequence[Site], seed: int = 0) -> Source:
    """The source of that name for these sites; UsageError if unknown. `clean`: `corrupt` of swapped ones."""
    make: dict[str, Callable[[], Source]] = {
        "zero": lambda: zero(lm),
        "mean": lambda: mean_of(lm, means(lm, forest, wanted)),
        "resample": lambda: resample(lm, forest, wanted, seed),
        **{twin: lambda: corrupt(lm, wanted, name) for twin in ("corrupt", "clean")},
    }
    if name not in make:
        raise UsageError(f"no source '{name}'; choose from: {', '.join(make)}")
    if name == "resample":
        _refuse_patterns(name, wanted)
    return make[name]()


def _refuse_patterns(name: str, wanted: Sequence[Site]) -> None:
    if any(site.component == "pattern" for site in wanted):
        raise UsageError(
            f"an attention pattern has no {name}: its rows are as long as the text before them; take "
            "--source corrupt or zero"
        )


def means(lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent) -> pl.DataFrame:
    """MEANS of every hook point that the wanted sites are part of, weighted by how many examples use a node.

    Depth 0 has its own mean (the first position is an attention sink, far from all others); all other nodes
    share one. Examples whose own pass is not finite are left out, and counted.
    """
    _refuse_patterns("mean", wanted)
    points = sorted({Site(s.layer, s.component) for s in wanted})
    sums, left_out = _Sums(), 0
    for block in track(list(forest.blocks), "means"):
        part = _summed(lm, block, points)
        apart = [(block, part)] if part.finite else [(b, _summed(lm, b, points)) for b in block.alone()]
        for single, alone in apart:
            if alone.finite:
                sums.add(alone)
            else:
                left_out += sum(map(len, single.examples))
    rows = []
    for point, total in sums.totals.items():
        for depth, weight in enumerate(sums.weight.clamp(min=1)):
            values = (total[depth] / weight).flatten().tolist()
            rows.append((point.component, point.layer, depth == 0, left_out, values))
    if not rows:
        raise DataError(f"no mean can be taken: {lm.name} gives no prompt finite activations in {lm.dtype}")
    return pl.DataFrame(rows, schema=MEANS, orient="row")


@dataclass
class _Sums:
    """Activations of hook points summed over nodes by depth class, in float64."""

    weight: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    totals: dict[Site, Tensor] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether all of it is."""
        return all(bool(total.isfinite().all()) for total in self.totals.values())

    def add(self, other: "_Sums") -> None:
        """Take in another sum."""
        self.weight = self.weight + other.weight
        self.totals = {point: self.totals.get(point, 0) + total for point, total in other.totals.items()}


def _summed(lm: LM, block: Block, points: Sequence[Site]) -> _Sums:
    """The sums over one block."""
    share = torch.stack([block.weights * (block.depth == 0), block.weights * (block.depth > 0)]).double()
    acts = forward.capture(lm, block, points)[0]
    return _Sums(
        share.sum((1, 2)),
        {p: torch.einsum("crn,rn...->c...", share.to(act), act).double() for p, act in acts.items()},
    )


def pool(forest: Forest) -> Pool:
    """The donor positions to draw from: every prefix of a forest, as often as examples use it."""
    uses: dict[Prefix, int] = defaultdict(int)
    for block in forest.blocks:
        for row, node in block.weights.nonzero().tolist():
            uses[block.prefix(row, node)] += int(block.weights[row, node])
    by_length: dict[int, list[Prefix]] = defaultdict(list)
    for prefix in sorted(uses):
        by_length[len(prefix)].append(prefix)
    return {length: (same, np.cumsum([uses[p] for p in same])) for length, same in by_length.items()}


def donor_of(drawn_from: Pool, prefix: Prefix, seed: int, attempt: int = 0) -> Prefix:
    """The donor of a prefix for resample ablation: a seeded position at the same depth, perhaps itself."""
    prefixes, uses = drawn_from[len(prefix)]
    drawn = np.random.default_rng((seed, _DONOR, attempt, *prefix)).random()
    return prefixes[int(np.searchsorted(uses, drawn * uses[-1], side="right"))]


def donor_activations(lm: LM, prefixes: Sequence[Prefix], points: Sequence[Site]) -> dict[Site, Tensor]:
    """Activations of whole hook points at each prefix's last node, `prefix …`; alone where not finite."""
    # a prefix's last id is read, not predicted: the 0 behind it stands for nothing
    groups = [[Scored((*prefix, 0), len(prefix), 0)] for prefix in prefixes]
    order: list[int] = []
    parts: list[dict[Site, Tensor]] = []
    for block in rows(groups, min(ROWS["all"], lm.window), "all", lm.packed):
        whole = _last_nodes(lm, block, points)
        finite = all(bool(act.isfinite().all()) for act in whole.values())
        parts += [whole] if finite else [_last_nodes(lm, single, points) for single in block.alone()]
        order += [i for same in block.examples for i in same]
    back = torch.tensor(order).argsort()
    return {point: torch.cat([part[point] for part in parts])[back] for point in points}


def _last_nodes(lm: LM, block: Block, points: Sequence[Site]) -> dict[Site, Tensor]:
    row, node = block.places[block.readout].T
    # nothing is read of the logits
    acts, _ = forward.capture(lm, replace(block, places=block.places[:1]), points)
    return {point: act[row, node] for point, act in acts.items()}
