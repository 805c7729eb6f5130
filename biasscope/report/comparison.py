"""Agreement of rankings: as tables for people, as data for programs, and as a section of a report."""

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine.errors import DataError
from biasscope.engine.schemas import DIFFERENCES, NONE, number
from biasscope.engine.settings import Format
from biasscope.engine.statistics import comparison
from biasscope.engine.store import cache, reproduce
from biasscope.engine.store.seals import Seal
from biasscope.engine.store.shards import SCHEMA_VERSION
from biasscope.report import formats
from biasscope.report.drawing import columns
from biasscope.report.page.gather import LISTED, Gathered
from biasscope.report.reliability import KINDS
from biasscope.report.tables import Table, overlap, probability

if TYPE_CHECKING:
    from biasscope.report.page.blocks import Section
    from biasscope.report.page.gallery import Gallery, Picture
    from biasscope.report.page.pairing import Pair

COMPARED = ("baseline", "ablate", "patch")
NAMES = {"z": "heads"} | {name: kind for name, kind in KINDS.items() if name != "z"}
SHOWN = 20
SIGNIFICANT = (
    "signif.: sites with a star in both; p: of as many shared by luck, – where luck alone gives more than "
    "half"
)


KEYED = pl.Schema({"first": pl.String, "second": pl.String} | dict(DIFFERENCES))
"""DIFFERENCES of several pairs of runs."""


def measured(
    names: Sequence[str], output_dir: Path, cache_dir: Path | None = None
) -> tuple[list[comparison.Ranking], list[dict[str, Any]]]:
    """The rankings of those runs that rank sites, and all runs as a document shows them. DataError: one is of
    another kind.
    """
    ranked: list[comparison.Ranking] = []
    used: list[dict[str, Any]] = []
    named = {
        stored.folder: (stored, record)
        for stored, record in (cache.load(output_dir, name, cache_dir) for name in names)
    }
    models = cache.models([stored for stored, _ in named.values()])
    for folder, (stored, record) in named.items():
        if record.command not in COMPARED:
            raise DataError(
                f"{folder} is a run of `{record.command}`; compare runs of {', '.join(COMPARED)}: of one "
                "kind for two models, or rankings of sites"
            )
        if record.command != "baseline":
            summary = pl.read_parquet(folder / "summary.parquet").with_columns(model=pl.lit(models[folder]))
            layers = 0 if record.model is None else record.model.layers
            ranked += comparison.rankings(folder.name, layers, summary)
        used.append(
            {"run": folder.name, "path": str(folder), "seal": stored.seal, "reproduce": reproduce.of(record)}
        )
    return ranked, used


def show_tables(rankings: Sequence[comparison.Ranking], document: dict[str, Any]) -> list[Table]:
    """The tables of a comparison; each ranking has a letter, which the first table explains."""
    letters = {ranking.name: _letter(i) for i, ranking in enumerate(rankings)}
    texts = comparison.labels(rankings)
    legend = [f"{letter}: {text}" for letter, text in zip(letters.values(), texts, strict=True)]
    loose = [row for row in document["runs"] if row["seal"] is not Seal.SEALED]
    legend += [f"run {row['run']}: its record is {row['seal']}" for row in loose]

    def start(row: dict[str, Any]) -> list[str]:
        kind = NAMES.get(row["component"], row["component"])
        return [f"{letters[row['first']]}, {letters[row['second']]}", kind, number(row["spearman"])]

    body = [[*start(row), *_common(row)] for row in document["pairs"]]
    columns, tables = ["runs", "sites", "ρ"], []
    if body:
        about = {"signif.": SIGNIFICANT}
        more = [*columns, "top shared", "p", "signif."]
        tables.append(Table("agreement of rankings", more, [body], [*legend, SIGNIFICANT], about=about))
    if document["depths"]:
        cells = [[*start(row), str(row["slices"])] for row in document["depths"]]
        title = "agreement by relative depth: largest |effect| in each tenth of the layers"
        tables.append(Table(title, [*columns, "slices"], [cells], [] if body else legend))
    if document["common"]:
        names = list(document["common"][0]["estimates"])
        shown = document["common"][:SHOWN]
        rows = [[row["site"], *(number(row["estimates"].get(name)) for name in names)] for row in shown]
        rest = len(document["common"]) - len(rows)
        note = [f"… {rest} more in --json"] if rest > 0 else []
        tables.append(Table("significant in all", ["site", *(letters[name] for name in names)], [rows], note))
    elif body:
        tables.append(Table("significant in all", [], [], ["no site has a star in every run"]))
    return tables


def _common(row: Mapping[str, Any]) -> list[str]:
    """What two rankings share: of their strongest beside luck, with its p, and of the starred sites."""
    shared = overlap(row["shared"], row["top"], row["expected"])
    chance = probability(row["p_shared"]) if shared else NONE
    return [str(shared or NONE), chance, str(row["significant_both"])]


def _letter(index: int) -> str:
    """A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other: two models on one data set, and how far rankings of sites agree."""

    pairs: Sequence["Pair"]
    """Every two runs of one kind on one data set, with the differences of the second."""
    rankings: Sequence[comparison.Ranking]
    used: Sequence[dict[str, Any]]
    """The runs as a document shows them."""
    top: int
    """How many of the strongest sites count as the top."""

    @property
    def differences(self) -> pl.DataFrame:
        """DIFFERENCES of all pairs (the second − the first, paired), with the keys of both runs."""
        parts = [
            pair.differences.with_columns(first=pl.lit(pair.first.key), second=pl.lit(pair.second.key))
            for pair in self.pairs
        ]
        parts = [part.select(KEYED.names()) for part in parts]
        return pl.concat([KEYED.to_frame(), *parts])

    @property
    def sentences(self) -> list[str]:
        """Of each two models whether the second is less stereotyped, with the interval."""
        from biasscope.report.page import models

        return [text for pair in self.pairs if (text := models.sentence(pair))]

    @property
    def agreement(self) -> pl.DataFrame:
        """Of each two rankings of one model, a kind of site a row: ρ, the shared top, and what luck gives."""
        return pl.DataFrame(comparison.pairs(self.rankings, self.top), infer_schema_length=None)

    def refuse_empty(self, why: Sequence[str]) -> None:
        """Raise DataError where there is nothing to compare; `why` no two runs pair up."""
        if self.pairs or comparison.pairs(self.rankings, self.top) or comparison.depths(self.rankings):
            return
        alone = len(self.rankings) == 1
        problem = "one ranking alone cannot be compared" if alone else "they rank no sites of one kind"
        ranked = [f"{problem}: {'; '.join(comparison.labels(self.rankings))}"] if self.rankings else []
        reasons = "; ".join([*ranked, *why]) or "no two runs are of one kind on one data set"
        raise DataError(f"{reasons}; give two runs or more of the same data")

    def document(self) -> dict[str, Any]:
        """All of it, as programs read it."""
        from biasscope.report.page import models

        return {
            "schema_version": SCHEMA_VERSION,
            "runs": list(self.used),
            "models": [models.document(pair) for pair in self.pairs],
            "pairs": comparison.pairs(self.rankings, self.top),
            "depths": comparison.depths(self.rankings),
            "common": comparison.common(self.rankings),
        }

    def tables(self) -> list[Table]:
        """All of it, as people read it: two models first."""
        from biasscope.report.page import models

        shown = [table for pair in self.pairs for table in models.show(pair)]
        return [*shown, *(show_tables(self.rankings, self.document()) if len(self.rankings) > 1 else [])]

    def _repr_html_(self) -> str:
        return "".join(map(formats.html, self.tables()))


def show(compared: Comparison, chosen: Format | None) -> None:
    """Write a comparison to stdout."""
    chosen = formats.form(chosen)
    if chosen is Format.TABLE:
        for table in compared.tables():
            columns.draw(table, sys.stdout)
    elif chosen is Format.JSON:
        formats.write_json(compared.document())
    elif compared.pairs:  # rows of one kind alone fit the other formats
        formats.rows(compared.differences, chosen)
    else:
        formats.rows(compared.agreement, chosen)
    sys.stdout.flush()


def agreement(gathered: Gathered, gallery: "Gallery") -> "list[Section]":
    """How many of the strongest heads each two maps share, and how far models agree by relative depth."""
    from biasscope.report.page.blocks import Block, Section

    drawn_maps = [m for part in gathered.parts for m in part.shown if m.sites("z").height]
    maps = {_letter(i): m for i, m in enumerate(drawn_maps)}
    rankings = []
    for letter, m in maps.items():
        layers = m.run.record.model.layers if m.run.record.model else 0
        rankings += comparison.rankings(letter, layers, m.rows)
    # among few heads a top 10 is shared by construction
    top = min([LISTED, *(max(1, m.sites("z").height // 4) for m in drawn_maps)])

    def close(row: dict[str, Any]) -> bool:
        """Whether two maps of heads differ in one respect: the data, what was done, or the model."""
        both = (maps[row["first"]], maps[row["second"]])
        one, other = ((m.run.model, m.run.data.name, m.name) for m in both)
        return row["component"] == "z" and sum(map(operator.eq, one, other)) == 2

    pairs = list(filter(close, comparison.pairs(rankings, top)))
    depths = list(filter(close, comparison.depths(rankings)))
    blocks: list[Block] = []
    notes = [f"{a}: {m.run.model}, {m.run.data.name}, {m.name} (run {m.run.key})" for a, m in maps.items()]
    if pairs:
        models = dict.fromkeys(m.run.model for m in drawn_maps)
        of = {name: [row for row in pairs if maps[row["first"]].run.model == name] for name in models}
        drawn = [_shared(name, rows, gallery) for name, rows in of.items() if rows]
        body = [[f"{r['first']}, {r['second']}", number(r["spearman"]), *_common(r)] for r in pairs]
        columns = ["maps", "ρ, all heads", "top shared", "p", "signif. in both"]
        blocks += [Block("pictures", pictures=drawn), Block("table", table=Table("", columns, [body], notes))]
    if depths:
        body = [[f"{r['first']}, {r['second']}", number(r["spearman"]), str(r["slices"])] for r in depths]
        title = "By relative depth: largest effect in each tenth of the layers"
        table = Table(title, ["maps", "ρ", "slices"], [body], [] if pairs else notes)
        blocks.append(Block("table", table=table))
    return [Section("Agreement between data, sources and models", blocks)] if blocks else []


def _shared(model: str, pairs: Sequence[Mapping[str, Any]], gallery: "Gallery") -> "Picture":
    """The figure of what each two maps of one model share."""
    from biasscope.report.drawing import figures

    shared = {(row["first"], row["second"]): (row["shared"], row["expected"]) for row in pairs}
    used = sorted({letter for pair in shared for letter in pair}, key=lambda letter: (letter[1:], letter))
    top, title = pairs[0]["top"], f"Strongest heads that two maps share\n{model}"
    says = f"Of {top}: " + "; ".join(f"{a} and {b} {n}" for (a, b), (n, _) in shared.items()) + "."
    return gallery.picture(
        gallery.name("agreement", model), figures.agreement, used, says, shared=shared, top=top, title=title
    )
