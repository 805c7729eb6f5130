"""A finished run in a notebook: its tables, its prompts, where its heads look, its figures."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.data import datasets
from biasscope.engine.errors import UsageError
from biasscope.engine.settings import Held
from biasscope.engine.statistics import summary
from biasscope.engine.store import runs
from biasscope.engine.types import COMPONENTS, Example, Site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from biasscope.engine.model.loading import LM
    from biasscope.report.drawing.attention import Attention


@dataclass(frozen=True)
class Plot:
    """A figure as a notebook shows it, whether pyplot is there or not."""

    figure: "Figure"
    """matplotlib's, to change or to save in another format."""

    def _repr_png_(self) -> bytes:
        from biasscope.report.drawing import canvas

        return canvas.png(self.figure)


class Run:
    """A finished experiment: its record, its tables, and what a notebook shows of it."""

    def __init__(self, result: runs.Result, held: Held) -> None:
        self._result, self._held = result, held

    @property
    def record(self) -> runs.RunRecord:
        """The run's record, `run.json`: its parameters, what ran, and all that is needed to repeat it."""
        return self._result.record

    @property
    def folder(self) -> Path:
        """Where its files are. UsageError where it measured several data sets: each of `record.datasets` has
        a path.
        """
        paths = [Path(part.path) for part in self.record.datasets]
        if len(paths) > 1:
            raise UsageError(
                f"the run has {len(paths)} folders, one a data set: {', '.join(map(str, paths))}"
            )
        return paths[0]

    @property
    def key(self) -> str:
        """The first eight characters of its run key. UsageError where it measured several data sets."""
        return self.folder.name

    @property
    def warnings(self) -> list[str]:
        """What the command would have said on stderr: examples left out, and why."""
        return list(self.record.warnings)

    @property
    def summary(self) -> pl.DataFrame:
        """One row per aggregate (schema SUMMARY): estimate, 95 % interval, p, marks; the strongest site
        first.
        """
        return pl.concat(self._result.summaries)

    @property
    def verdict(self) -> str:
        """What a baseline shows, in words; one line a data set. UsageError where the run is none."""
        from biasscope.report import formats

        if self.record.command != "baseline":
            raise UsageError(f"a run of {self.record.command} has no verdict; a baseline has")
        return "\n".join(each.sentence for each in formats.verdicts(self._result) if each)

    @property
    def reliability(self) -> pl.DataFrame:
        """One row per number that says how far the ranking can be trusted (schema RELIABILITY)."""
        return pl.concat(self._result.reliability)

    @property
    def effects(self) -> pl.DataFrame:
        """One row per example, site and metric (schema EFFECTS): baseline, value, effect = value −
        baseline.
        """
        return self.table("effects")

    def table(self, name: str) -> pl.DataFrame:
        """A per-example table of its folder: effects, exact, control, scores, triples, twins, activations,
        predictions …

        UsageError, with those that there are, where it has none of that name.
        """
        parts = [Path(part.path) / f"{name}.parquet" for part in self.record.datasets if name in part.tables]
        if not parts:
            there = sorted({table for part in self.record.datasets for table in part.tables})
            raise UsageError(
                f"a run of {self.record.command} has no table '{name}'; it has: {', '.join(there)}"
            )
        return pl.concat(map(pl.read_parquet, parts))

    def top(self, n: int = 10) -> pl.DataFrame:
        """The n rows that rank first: of heads and MLPs, else of other sites or of edges, with their
        marks (`*`: a star).

        Only columns that hold something.
        """
        from biasscope.report import edges

        if self._edges:
            rows = edges.named(self.table("edges").head(n))
        elif self.record.command in ("ablate", "patch"):
            # not the control's
            own = self.summary.filter(pl.col("dataset").is_in([part.name for part in self.record.datasets]))
            ranked = summary.ranking(own)
            single = ranked.filter(schemas.heads_and_mlps())
            rows = edges.named((single if single.height else ranked).head(n))
        else:
            rows = self.summary.head(n)
        return rows.select(name for name in rows.columns if set(rows[name]) - {"", None})

    def prompts(self, site: str | Site, n: int = 10) -> pl.DataFrame:
        """The prompts whose `target` a site changes most: prompt, group, baseline, value, effect (nats), the
        largest first.

        Site: "L26H2" or "26.2", "L5.mlp". UsageError where the run did not measure it.
        """
        wanted = _site(site)
        rows = self.effects.filter(
            pl.col("head").eq_missing(wanted.head),
            layer=wanted.layer,
            component=wanted.component,
            metric="target",
        )
        if rows.is_empty():
            raise UsageError(f"the run did not measure {wanted}; it has {self._sites()}")
        texts = self._texts().select("example_id", "dataset", "prompt", "stereo", "anti")
        kept = ["source", "position", "dataset", "group", "prompt", "stereo", "anti"]
        kept += ["baseline", "value", "effect", "example_id"]
        joined = rows.join(texts, on=["example_id", "dataset"], how="left", maintain_order="left")
        return joined.sort(pl.col("effect").abs(), descending=True, maintain_order=True).select(kept).head(n)

    def attention(self, site: str | Site, example: str) -> "Attention":
        """Where a head looks from the last token of one prompt of the run: its tokens, coloured by weight.

        `example`: the id of one of its examples (`run.prompts(site)` has them). The first heads of a run are
        stored (`run.table("patterns")`); for others the model is loaded.
        """
        from biasscope.report.drawing.attention import Attention

        head, of = self._head(site), self._example(example)
        stored = any("patterns" in part.tables for part in self.record.datasets)
        rows = self.table("patterns") if stored else schemas.PATTERNS.to_frame()
        rows = rows.filter(layer=head.layer, head=head.head, example_id=example)
        if rows.is_empty():
            if self.record.given:
                raise UsageError(f"{head} in '{example}' was not kept of a model{self.record.given}")
            from biasscope.engine.measure import patterns
            from biasscope.engine.model import tokens

            lm = self._held.lm or self._load()
            units = patterns.units(lm, tokens.forest(lm, [of]), {head: {example}})
            rows = pl.concat(unit.compute()["patterns"] for unit in units)
        return Attention(head, example, rows.select("node", "token", "weight", "term"))

    def attention_matrix(self, site: str | Site, example: str) -> pl.DataFrame:
        """Where a head looks from every token of one prompt: a row per token, a column per token that it
        attends to, weights in [0, 1]. The model is loaded.
        """
        from biasscope.engine.experiments.scans import models
        from biasscope.engine.measure import activations
        from biasscope.engine.model import tokens

        head, prompt = self._head(site), self._example(example).prompt
        lm = models.as_measured(self._held.lm or self._load(), self.record.params)
        weights, words = activations.attention(lm, tokens.encode(lm, prompt), head), tokens.pieces(lm, prompt)
        named = [f"{i} {word}" for i, word in enumerate(words)]
        return pl.DataFrame({"token": named} | dict(zip(named, weights.T.tolist(), strict=True)))

    def plot(self, component: Literal["z", "mlp_out", "q", "k", "v", "pattern"] = "z") -> Plot:
        """The report's figure: a heat map of heads or of what is in them (bars of MLPs), the strongest
        edges, probes by layer, a circuit's curve. UsageError where it has none.
        """
        from biasscope.report import edges
        from biasscope.report.drawing import figures

        rows, title = (
            self._result.summaries[0],
            f"{self.record.command} on {self.record.datasets[0].name}{self.record.given}",
        )
        if self.record.command == "probe":
            return Plot(figures.probes(rows, title=title))
        if self.record.command == "circuit":
            return Plot(figures.faithfulness(rows, title=title))
        if self._edges:
            return Plot(figures.graph(edges.lines(self.table("edges")), title=title))
        kind = ["dataset", "method", "source"]  # not the control's, nor what was measured beside it
        every = summary.ranking(rows.filter(pl.col(name) == rows[name][0] for name in kind))
        ranked = every.filter(schemas.single_sites(), pl.col("component") == component)
        if self.record.command not in ("ablate", "patch") or ranked.is_empty():
            there = ", ".join(every["component"].drop_nulls().unique(maintain_order=True))
            has = f"; it has: {there}" if there else ""
            raise UsageError(f"a run of {self.record.command} has no figure of {component}{has}")
        if ranked["position"].n_unique() > 1:
            raise UsageError(
                "a run with several positions has no one map of heads; bs.report([run]) draws it along the "
                "prompt"
            )
        if component == "mlp_out":
            return Plot(figures.bars(ranked, title=title, unit=ranked["unit"][0]))
        largest = max(ranked["estimate"].abs().max() or 0.0, 1e-9)
        return Plot(figures.heat_map(ranked, title=title, largest=largest, unit=ranked["unit"][0]))

    @property
    def _edges(self) -> bool:
        return any("edges" in part.tables for part in self.record.datasets)

    def _head(self, site: str | Site) -> Site:
        """The head of that name. UsageError where it is another site."""
        head = _site(site)
        if head.head is None:
            raise UsageError(f"{head} is no head; give one such as L5H3")
        return head

    def _example(self, name: str) -> Example:
        """The example of that id. UsageError where the run has none."""
        found = next((e for e in self._examples() if e.id == name), None)
        if found is None:
            raise UsageError(f"the run has no example '{name}'; the ids are in run.effects['example_id']")
        return found

    def _texts(self) -> pl.DataFrame:
        """PROMPTS: as stored, or of a run of an older version read anew."""
        if all("prompts" in part.tables for part in self.record.datasets):
            return self.table("prompts")
        from biasscope.engine.experiments.scans import shown

        return shown.texts(self._examples())

    def _examples(self) -> list[Example]:
        """The examples of its data sets, in memory or read anew: by the names, or of the files, that were
        asked for.
        """
        measured, held = {part.name for part in self.record.datasets}, self._held.datasets
        params = self.record.params
        how = {name: params.get(name, False) for name in ("skip_invalid", "no_space")}
        read = held or [datasets.read(name, Path(params["data_dir"]), **how) for name in params["dataset"]]
        return [e for data in read if data.name in measured for e in data.examples]

    def _load(self) -> "LM":
        """Its model, loaded anew and kept."""
        from biasscope.engine.model import exactness, loading

        options = {name: self.record.params[name] for name in ("device", "dtype", "revision")}
        lm = loading.load(
            self.record.params["model"], **options, cache_dir=Path(self.record.params["cache_dir"])
        )
        self._held = replace(self._held, lm=exactness.check_packing(lm))
        return self._held.lm

    def _sites(self) -> str:
        ranked = self.effects.select("component").unique().sort("component")["component"].to_list()
        first, last = self.effects.select(first=pl.col("layer").min(), last=pl.col("layer").max()).row(0)
        return f"sites of {', '.join(ranked)} in layers {first}-{last}"

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name} ({part.used} examples)" for part in self.record.datasets)
        model = self.record.model.name if self.record.model else "predictions"
        return f"<biasscope {self.record.command}: {model} on {parts}, {self.record.datasets[0].path}>"

    def _repr_html_(self) -> str:
        from biasscope.report import formats

        return "".join(formats.html(table) for table in formats.tables_of(self._result))


def _site(site: str | Site) -> Site:
    """The site that "L26H2", "26.2", "L5.mlp" or "5.mlp" names."""
    if isinstance(site, Site):
        return site
    named = re.fullmatch(r"L?(\d+)(?:[H.](\d+)|\.(\w+))", site.strip(), re.ASCII)
    component = {"mlp": "mlp_out"}.get(named[3] or "z", named[3] or "z") if named else ""
    if not named or component not in COMPONENTS:
        raise UsageError(
            f"'{site}' names no site; write L26H2 or 26.2 for a head, L5.mlp for an MLP, L5.resid_post for a "
            "hook point"
        )
    return Site(int(named[1]), component, None if named[2] is None else int(named[2]))
