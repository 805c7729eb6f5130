"""The parts of a report about claims that go beyond single sites: probes, sets of sites, agreement between maps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from biasscope import circuit_table, probe_table
from biasscope.engine import comparison, figures
from biasscope.reporting import words
from biasscope.reporting.document import Block, Gallery, Picture, Section, missing
from biasscope.reporting.nouns import LISTED, Gathered, Map, Part
from biasscope.tables import Table, number, overlap, probability


def probes(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """Probe curves with their chance band, and the table of the first."""
    drawn = []
    for part in parts:
        if not part.probes:
            yield missing(f"Not measured for {part.model}: {words.command('probe', part)}")
        for found in part.probes:
            params, task = found.record.params, found.summary["metric"][0]
            title = f"Probe for {task}: {part.model}\n{part.dataset}, {params.get('site')}, {params.get('position')} token" + (
                ", against unrelated words" if params.get("negatives") == "unrelated" else ""
            )
            rows = found.summary.filter(pl.col("method") != "removal")
            drawn.append(gallery.picture("probe", f"{title}. {words.probe(found)}".replace("\n", ", "), figures.probes, rows, title=title))
    if drawn:
        yield Block("pictures", pictures=drawn)
    for part in parts:
        for found in part.probes[:1]:
            table = probe_table.probes(found.summary, part.name, found.file, found.record.params.get("split") or "kfold")
            yield Block(
                "table",
                table=Table(f"{table.title} (every fifth row)", table.columns, [table.sections[0][::5], *table.sections[1:]], table.notes),
            )


def sets(parts: Sequence[Part], gallery: Gallery) -> Iterator[Block]:
    """Faithfulness of the strongest sites beside random sets."""
    for part in parts:
        if not part.circuits:
            yield missing(f"Not measured for {part.model}: biasscope circuit --from RUN, with a run of ablate or patch")
        drawn, made = [], []
        for found in part.circuits:
            made.append(circuit_table.sets(found.summary, part.name, found.file))
            if found.summary.filter(pl.col("statistic") == "faithfulness")["estimate"].is_not_null().any():
                source = found.summary["source"].drop_nulls().to_list()[0]
                title = f"Sets of sites: {part.model}\n{part.dataset}, {words.SOURCES.get(source, source)}"
                drawn.append(
                    gallery.picture(
                        "sets", f"{title}. {words.sets(found)}".replace("\n", ", "), figures.faithfulness, found.summary, title=title
                    )
                )
        yield from [Block("pictures", pictures=drawn)] if drawn else []
        yield from (Block("table", table=table) for table in made)


def agreement(found: Gathered, gallery: Gallery) -> Section:
    """How many of the strongest heads each two maps share, and how far models agree by relative depth."""
    maps = [m for part in found.parts for m in part.shown if m.sites("z").height]
    letters = [chr(ord("A") + i) if i < 26 else f"{chr(ord('A') + i % 26)}{i // 26}" for i in range(len(maps))]
    rankings = []
    for letter, m in zip(letters, maps, strict=True):
        layers = m.run.record.model.layers if m.run.record.model else 0
        rankings += comparison.rankings(letter, layers, m.rows)
    # among few heads a top 10 is shared by construction
    top = min([LISTED, *(max(1, m.sites("z").height // 4) for m in maps)])
    by_letter = dict(zip(letters, maps, strict=True))

    def close(row: dict[str, Any]) -> bool:
        """Whether two maps of heads differ in one respect: the data, what was done, or the model."""
        one, other = by_letter[row["first"]], by_letter[row["second"]]
        same = [one.run.model == other.run.model, one.run.dataset == other.run.dataset, one.name == other.name]
        return row["component"] == "z" and sum(same) == 2

    pairs = [row for row in comparison.pairs(rankings, top) if close(row)]
    legend = [f"{letter}: {m.run.model}, {m.run.dataset}, {m.name} (run {m.run.key})" for letter, m in zip(letters, maps, strict=True)]
    depths = [row for row in comparison.depths(rankings) if close(row)]
    if not pairs and not depths:
        return Section(
            "Agreement between data, sources and models", [missing("Needs two maps: of another dataset, source, method or model.")]
        )
    blocks: list[Block] = []
    if pairs:
        drawn = [_shared(model, [row for row in pairs if by_letter[row["first"]].run.model == model], gallery) for model in _models(maps)]
        blocks.append(Block("pictures", pictures=[picture for picture in drawn if picture]))
        rows = [
            [
                f"{r['first']}, {r['second']}",
                number(r["spearman"]),
                overlap(r["shared"], r["top"], r["expected"]),
                probability(r["p_shared"]),
                str(r["significant_both"]),
            ]
            for r in pairs
        ]
        columns = ["maps", "ρ, all heads", "top shared", "p", "signif. in both"]
        blocks.append(Block("table", table=Table("", columns, [rows], legend)))
    if depths:
        rows = [[f"{r['first']}, {r['second']}", number(r["spearman"]), str(r["slices"])] for r in depths]
        blocks.append(
            Block(
                "table",
                table=Table(
                    "By relative depth: largest effect in each tenth of the layers",
                    ["maps", "ρ", "slices"],
                    [rows],
                    [] if pairs else legend,
                ),
            )
        )
    return Section("Agreement between data, sources and models", blocks)


def _models(maps: Sequence[Map]) -> list[str]:
    return list(dict.fromkeys(m.run.model for m in maps))


def _shared(model: str, pairs: Sequence[Mapping[str, Any]], gallery: Gallery) -> Picture | None:
    """The figure of what each two maps of one model share; None where there is only one map."""
    if not pairs:
        return None
    shared = {(row["first"], row["second"]): (row["shared"], row["expected"]) for row in pairs}
    used = sorted({letter for pair in shared for letter in pair}, key=lambda letter: (letter[1:], letter))
    top, title = pairs[0]["top"], f"Strongest heads that two maps share\n{model}"
    alt = f"{title}, of {top}: ".replace("\n", ", ") + "; ".join(f"{a} and {b} {n}" for (a, b), (n, _) in shared.items())
    return gallery.picture("agreement", alt, figures.agreement, used, shared=shared, top=top, title=title)
