"""The edits to try, made of the choosing half alone: its ranking of heads, its means, its activations."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.mitigate.wanted import Wanted
from biasscope.engine.experiments.scans.ranked import RankedRun
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.schemas import EDITS, FITS
from biasscope.engine.settings import KINDS
from biasscope.engine.statistics import mitigate as statistics
from biasscope.engine.types import Edit, Site, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from biasscope.engine.measure.edits import Direction

OWN = "own"
VARIETY = 10
"""More pairs of continuations than that have no direction in common."""


@dataclass(frozen=True)
class Fitting:
    """What edits are made of."""

    here: Scan
    """Of the choosing half."""
    ranks: RankedRun
    wanted: Wanted
    kinds: tuple[str, ...]

    @cached_property
    def heads(self) -> list[Site]:
        """The run's heads, in the model's order."""
        return [site for site in self.ranks.sites() if site.head is not None]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many heads are edited. UsageError where so many others are not left for a control."""
        from biasscope.engine.experiments.scans import selection

        sizes = selection.parse_sizes(self.wanted.sizes)
        if 2 * sizes[-1] > len(self.heads):
            raise UsageError(
                f"--sizes {self.wanted.sizes}: the run has {len(self.heads)} heads, and as many must be left "
                "to compare with; give smaller sizes, or a run of all heads"
            )
        return sizes

    @cached_property
    def ranked(self) -> list[Site]:
        """The heads, those first whose replacement lowers the ranking statistic most."""
        from biasscope.engine.measure import exact
        from biasscope.engine.measure.sources import Sweep

        forest = self.here.forest()
        source = self.here.source(self.ranks.source, forest, self.heads)
        sweep = Sweep(self.heads, source, metrics=("target",))
        units = exact.units(self.here.run.lm, forest, sweep, self.here.batch)
        names = self.here.measure(units, "ranking heads", prefix="rank-")
        with self.here.run.phase("statistics"):
            effects = pl.concat(self.here.journal.tables("effects", names))
            return statistics.lowering(effects, self.here.ungrouped)

    @cached_property
    def means(self) -> Mapping[Site, "Tensor"]:
        """Each head's mean z over all nodes but the first position: one, which can leave as a file."""
        import torch

        lm = self.here.run.lm
        self.here.source("mean", self.here.forest(), self.heads)
        table = self.here.journal.get(f"{self.here.prefix}means", "means").filter(first=False)
        by_layer = {row["layer"]: row["values"] for row in table.iter_rows(named=True)}
        of = {
            layer: torch.tensor(v, dtype=torch.float64).view(lm.n_heads, -1) for layer, v in by_layer.items()
        }
        return {site: of[site.layer][site.head] for site in self.heads}

    @cached_property
    def towards(self) -> "Tensor":
        """The direction of the two continuations that most prompts have. UsageError: they have too many."""
        from biasscope.engine.measure import edits

        pairs = Counter((e.stereo, e.anti) for e in self.here.dataset.examples)
        if len(pairs) > VARIETY or any(e.anti_prompt for e in self.here.dataset.examples):
            raise UsageError(
                "--kind project keeps heads from writing towards one of two words after one prompt, and "
                f"{self.here.run.datasets[0].name} has {len(pairs)} pairs of them; take --kind mean or zero"
            )
        (one, other), _ = pairs.most_common(1)[0]
        return edits.contrast(self.here.run.lm, one, other)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The layers at which the stream is edited."""
        return self.wanted.depths(self.here.run.lm.n_layers)

    @cached_property
    def read(self) -> tuple[list[str], dict[int, np.ndarray]]:
        """The group of each distinct prompt, and by layer the prompts' activations there, `text d`."""
        from biasscope.engine.measure import activations

        texts: dict[tuple[Any, ...], tuple[Any, str]] = {}
        for e in self.here.dataset.examples:
            text = activations.text(self.here.run.lm, e.id, e.prompt, e.word)
            if not isinstance(text, str) and (self.wanted.at == "last" or text.term is not None):
                texts.setdefault((text.ids, text.term), (text, e.group))
        if not texts:
            raise DataError(
                f"no prompt of {self.here.dataset.name} names its term, where --at term reads; take --at last"
            )
        units = activations.units(
            self.here.run.lm, [text for text, _ in texts.values()], "resid", self.wanted.at
        )
        names = self.here.measure(units, "activations", prefix="read-")
        table = pl.concat(self.here.journal.tables("activations", names)).filter(
            pl.col("layer").is_in(self.depths), component="resid_pre"
        )
        group = {text.id: group for text, group in texts.values()}
        known = sorted(set(table["example_id"]))
        layers = {
            layer: np.array(table.filter(layer=layer).sort("example_id")["values"].to_list(), np.float64)
            for layer in self.depths
        }
        return [group[id_] for id_ in known], layers

    def direction(self, kind: str, layer: int, label: Mapping[str, float]) -> "Direction":
        """What a kind takes from the activations at a layer and a number of each group."""
        from biasscope.engine.measure import edits

        groups, layers = self.read
        known = np.array([group in label for group in groups])
        y = np.array([label[group] for group in groups if group in label])
        if len(set(y.tolist())) < 2:
            raise DataError(
                f"the {self.here.dataset.name} has one value of its covariate alone: {kind} cannot be "
                "fitted; take --kind mean or zero, or more groups"
            )
        x = layers[layer][known]
        if kind == "erase":
            return edits.erasure(x, y)
        # a group counts once, however many prompts it has
        names = np.array(groups)[known]
        each = [names == name for name in sorted(set(names))]
        means = np.stack([x[here].mean(0) for here in each])
        return edits.difference(means, np.array([y[here][0] for here in each]), self.middle)

    @cached_property
    def middle(self) -> float:
        """What parts men's occupations from women's: 50 %, or the median of a covariate that is no share; the
        mean where no group is on one side of those.
        """
        values = np.array(list(self.label().values()))
        middle = 50.0 if self.here.dataset.covariates[0].unit == "%" else float(np.median(values))
        return middle if values.min() <= middle < values.max() else float(values.mean())

    def label(self) -> dict[str, float]:
        """The covariate of the choosing half's groups."""
        groups = {e.group for e in self.here.dataset.examples}
        return {group: x for group, x in (self.here.dataset.covariate or {}).items() if group in groups}

    def vectors(self, kind: str, heads: Sequence[Site]) -> dict[Site, "Tensor | None"]:
        """What each of some heads needs under a kind."""
        from biasscope.engine.measure import edits

        make: dict[str, Callable[[Site], Tensor | None]] = {
            "mean": lambda site: self.means[site],
            "zero": lambda site: None,
            "project": lambda site: edits.written(self.here.run.lm, site, self.towards),
        }
        return {site: make[kind](site) for site in heads}

    def own(self) -> list[tuple[Edit, dict[str, Any]]]:
        """The edits to try, and what their rows say of them."""
        from biasscope.engine.measure import edits

        made: list[tuple[Edit, dict[str, Any]]] = []
        for kind in self.kinds:
            if KINDS[kind].heads:
                for k in self.sizes:
                    vectors = self.vectors(kind, self.ranked[:k])
                    for dose in self.wanted.doses_of(kind):
                        edit = Edit(edits.at_heads(kind, vectors, dose), f"{kind}-{k}@{dose:g}", kind, dose)
                        made.append((edit, {"k": k}))
                continue
            for layer in self.depths:
                found = self.direction(kind, layer, self.label())
                for dose in self.wanted.doses_of(kind):
                    edit = Edit(found.at(layer, dose), f"{kind}-L{layer}@{dose:g}", kind, dose)
                    made.append((edit, {"layer": layer, "at": self.wanted.at}))
        return made

    def stored(self) -> tuple[list[Edit], pl.DataFrame]:
        """The edits as they were fitted once, and their rows: a resumed run has the same numbers."""

        def fit() -> dict[str, pl.DataFrame]:
            made = self.own()
            rows = [row(self.here, edit, OWN, edit.name, **about) for edit, about in made]
            return {"fits": table([edit for edit, _ in made]), "edits": pl.DataFrame(rows, EDITS)}

        (name,) = self.here.measure([Unit("fits", fit)], None)
        known = self.here.journal.get(name, "edits")
        return edits_of(self.here.journal.get(name, "fits"), known), known


def row(here: Scan, edit: Edit, role: str, of: str, **about: Any) -> dict[str, Any]:
    """The row of an edit in EDITS."""
    from biasscope.engine.model.edits import recipe

    sites = " ".join(map(str, sorted(edit.at)))
    digest = recipe.of(edit, {"digest": here.run.weights.digest}).digest
    same = {"name": edit.name, "kind": edit.kind, "role": role, "of": of, "dose": edit.dose}
    return dict.fromkeys(EDITS) | same | {"sites": sites, "digest": digest, "used": True} | about


def table(edits: Sequence[Edit]) -> pl.DataFrame:
    """The FITS of edits: their maps, number by number."""
    rows = []
    for edit in edits:
        for site, affine in sorted(edit.at.items()):
            place = {"name": edit.name, "layer": site.layer, "component": site.component, "head": site.head}
            vectors = {name: vector.double().tolist() for name, vector in affine.vectors.items()}
            rows.append(place | {"scale": affine.scale, "first": affine.first} | vectors)
    return pl.DataFrame(rows, FITS)


def edits_of(fits: pl.DataFrame, known: pl.DataFrame) -> list[Edit]:
    """The edits of FITS, in the order of their rows in EDITS."""
    import torch

    from biasscope.engine.model.edits.affine import VECTORS, Affine

    maps: dict[str, dict[Site, Affine]] = {}
    for each in fits.iter_rows(named=True):
        vectors = {n: torch.tensor(each[n], dtype=torch.float32) for n in VECTORS if each[n] is not None}
        site = Site(each["layer"], each["component"], each["head"])
        maps.setdefault(each["name"], {})[site] = Affine(each["scale"], **vectors, first=each["first"])
    own = known.filter(role=OWN)
    return [
        Edit(maps[name], name, kind, dose)
        for name, kind, dose in own.select("name", "kind", "dose").iter_rows()
    ]
