"""Agreement of rankings: as tables for people, as data for programs, and as a section of a report."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from biasscope.engine.schemas import NONE, number
from biasscope.engine.settings import Format
from biasscope.engine.statistics import comparison
from biasscope.engine.store.seals import Seal
from biasscope.engine.store.shards import SCHEMA_VERSION
from biasscope.report import formats
from biasscope.report.gather import LISTED, Gathered, Map
from biasscope.report.reliability import KINDS
from biasscope.report.tables import Table, overlap, probability

if TYPE_CHECKING:
    from biasscope.report.blocks import Gallery, Picture, Section

NAMES = {"z": "heads"} | {name: kind for name, kind in KINDS.items() if name != "z"}
SHOWN = 20


def show_tables(rankings: Sequence[comparison.Ranking], document: dict[str, Any]) -> list[Table]:
    """The tables of a comparison; each ranking has a letter, which the first table explains."""
    letters = {ranking.name: _letter(i) for i, ranking in enumerate(rankings)}
    legend = [
        f"{letter}: {text}"
        for letter, text in zip(letters.values(), comparison.labels(rankings), strict=True)
    ]
    legend += [
        f"run {row['run']}: its record is {row['seal']}"
        for row in document["runs"]
        if row["seal"] is not Seal.SEALED
    ]

    def two(row: dict[str, Any]) -> str:
        return f"{letters[row['first']]}, {letters[row['second']]}"

    body = []
    for row in document["pairs"]:
        shared = overlap(row["shared"], row["top"], row["expected"])
        chance = probability(row["p_shared"]) if shared else NONE
        last = [str(shared or NONE), chance, str(row["significant_both"])]
        kind = NAMES.get(row["component"], row["component"])
        body.append([two(row), kind, number(row["spearman"]), *last])
    columns = ["runs", "sites", "ρ", "top shared", "p", "signif."]
    notes = [
        *legend,
        "signif.: sites with a star in both; p: of as many shared by luck, – where luck alone gives more "
        "than half",
    ]
    tables = [Table("agreement of rankings", columns, [body], notes)] if body else []
    if document["depths"]:
        cells = [
            [two(r), NAMES.get(r["component"], r["component"]), number(r["spearman"]), str(r["slices"])]
            for r in document["depths"]
        ]
        title = "agreement by relative depth: largest |effect| in each tenth of the layers"
        tables.append(Table(title, ["runs", "sites", "ρ", "slices"], [cells], legend if not body else []))
    if document["common"]:
        names = list(document["common"][0]["estimates"])
        rows = [
            [row["site"], *(number(row["estimates"].get(name)) for name in names)]
            for row in document["common"][:SHOWN]
        ]
        more = len(document["common"]) - len(rows)
        tables.append(
            Table(
                "significant in all",
                ["site", *(letters[name] for name in names)],
                [rows],
                [f"… {more} more in --json"] if more > 0 else [],
            )
        )
    elif body:
        tables.append(Table("significant in all", [], [], ["no site has a star in every run"]))
    return tables


def _letter(index: int) -> str:
    """A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def show_comparison(
    rankings: Sequence[comparison.Ranking], used: list[dict[str, Any]], top: int, chosen: Format | None
) -> None:
    """Write the comparison to stdout."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "runs": used,
        "pairs": comparison.pairs(rankings, top),
        "depths": comparison.depths(rankings),
        "common": comparison.common(rankings),
    }
    chosen = chosen or (Format.TABLE if sys.stdout.isatty() else Format.JSON)
    if chosen is Format.TABLE:
        for table in show_tables(rankings, document):
            formats.draw(table, sys.stdout)
    elif chosen is Format.JSON:
        sys.stdout.write(json.dumps(document, allow_nan=False, indent=2) + "\n")
    else:  # rows of one kind alone fit the other formats
        rows = document["pairs"]
        cells = [[str(value) for value in row.values()] for row in rows]
        formats.listing("pairs", rows, cells, chosen, columns=list(rows[0]) if rows else [])
    sys.stdout.flush()


def agreement(gathered: Gathered, gallery: "Gallery") -> "Section":
    """How many of the strongest heads each two maps share, and how far models agree by relative depth."""
    from biasscope.report.blocks import Block, Section, missing

    maps = [m for part in gathered.parts for m in part.shown if m.sites("z").height]
    letters = [
        chr(ord("A") + i) if i < 26 else f"{chr(ord('A') + i % 26)}{i // 26}" for i in range(len(maps))
    ]
    rankings = []
    for letter, m in zip(letters, maps, strict=True):
        layers = m.run.record.model.layers if m.run.record.model else 0
        rankings += comparison.rankings(letter, layers, m.rows)
    # among few heads a top 10 is shared by construction
    top = min([LISTED, *(max(1, m.sites("z").height // 4) for m in maps)])
    by_letter = dict(zip(letters, maps, strict=True))

    def close(row: dict[str, Any]) -> bool:
        """Whether two maps of heads differ in one respect: the data, what was done, or the model."""
        first, second = by_letter[row["first"]], by_letter[row["second"]]
        same = [
            first.run.model == second.run.model,
            first.run.dataset == second.run.dataset,
            first.name == second.name,
        ]
        return row["component"] == "z" and sum(same) == 2

    pairs = [row for row in comparison.pairs(rankings, top) if close(row)]
    legend = [
        f"{letter}: {m.run.model}, {m.run.dataset}, {m.name} (run {m.run.key})"
        for letter, m in zip(letters, maps, strict=True)
    ]
    depths = [row for row in comparison.depths(rankings) if close(row)]
    if not pairs and not depths:
        return Section(
            "Agreement between data, sources and models",
            [missing("Needs two maps: of another dataset, source, method or model.")],
        )
    blocks: list[Block] = []
    if pairs:
        drawn = [
            _shared(model, [row for row in pairs if by_letter[row["first"]].run.model == model], gallery)
            for model in _models(maps)
        ]
        blocks.append(Block("pictures", pictures=[picture for picture in drawn if picture]))
        rows = []
        for r in pairs:
            shared = str(overlap(r["shared"], r["top"], r["expected"]) or NONE)
            last = [shared, probability(r["p_shared"]), str(r["significant_both"])]
            rows.append([f"{r['first']}, {r['second']}", number(r["spearman"]), *last])
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


def _shared(model: str, pairs: Sequence[Mapping[str, Any]], gallery: "Gallery") -> "Picture | None":
    """The figure of what each two maps of one model share; None where there is only one map."""
    from biasscope.report import figures

    if not pairs:
        return None
    shared = {(row["first"], row["second"]): (row["shared"], row["expected"]) for row in pairs}
    used = sorted({letter for pair in shared for letter in pair}, key=lambda letter: (letter[1:], letter))
    top, title = pairs[0]["top"], f"Strongest heads that two maps share\n{model}"
    alt = f"{title}, of {top}: ".replace("\n", ", ") + "; ".join(
        f"{a} and {b} {n}" for (a, b), (n, _) in shared.items()
    )
    return gallery.picture("agreement", alt, figures.agreement, used, shared=shared, top=top, title=title)
