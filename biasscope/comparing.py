"""A comparison of rankings as tables for people and as data for programs."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from biasscope import show
from biasscope.engine import comparison
from biasscope.engine.sealing import Seal
from biasscope.engine.store import SCHEMA_VERSION
from biasscope.options import Format
from biasscope.tables import NONE, Table, number, overlap, probability
from biasscope.trust import KINDS

NAMES = {"z": "heads"} | {name: kind for name, kind in KINDS.items() if name != "z"}
LISTED = 20


def show_tables(found: Sequence[comparison.Ranking], document: dict[str, Any]) -> list[Table]:
    """The tables of a comparison; each ranking has a letter, which the first table explains."""
    letters = {ranking.name: _letter(i) for i, ranking in enumerate(found)}
    legend = [f"{letter}: {text}" for letter, text in zip(letters.values(), comparison.labels(found), strict=True)]
    legend += [f"run {row['run']}: its record is {row['seal']}" for row in document["runs"] if row["seal"] is not Seal.SEALED]

    def two(row: dict[str, Any]) -> str:
        return f"{letters[row['first']]}, {letters[row['second']]}"

    body = []
    for row in document["pairs"]:
        common = overlap(row["shared"], row["top"], row["expected"])
        shared = [common, NONE if common == NONE else probability(row["p_shared"]), str(row["significant_both"])]
        body.append([two(row), NAMES.get(row["component"], row["component"]), number(row["spearman"]), *shared])
    columns = ["runs", "sites", "ρ", "top shared", "p", "signif."]
    notes = [*legend, "signif.: sites with a star in both; p: of as many shared by luck, – where luck alone gives more than half"]
    made = [Table("agreement of rankings", columns, [body], notes)] if body else []
    if document["depths"]:
        cells = [[two(r), NAMES.get(r["component"], r["component"]), number(r["spearman"]), str(r["slices"])] for r in document["depths"]]
        title = "agreement by relative depth: largest |effect| in each tenth of the layers"
        made.append(Table(title, ["runs", "sites", "ρ", "slices"], [cells], legend if not body else []))
    if document["common"]:
        names = list(document["common"][0]["estimates"])
        rows = [[row["site"], *(number(row["estimates"].get(name)) for name in names)] for row in document["common"][:LISTED]]
        more = len(document["common"]) - len(rows)
        made.append(
            Table(
                "significant in all", ["site", *(letters[name] for name in names)], [rows], [f"… {more} more in --json"] if more > 0 else []
            )
        )
    elif body:
        made.append(Table("significant in all", [], [], ["no site has a star in every run"]))
    return made


def _letter(index: int) -> str:
    """A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def show_comparison(found: Sequence[comparison.Ranking], used: list[dict[str, Any]], top: int, chosen: Format | None) -> None:
    """Nothing: writes the comparison to stdout."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "runs": used,
        "pairs": comparison.pairs(found, top),
        "depths": comparison.depths(found),
        "common": comparison.common(found),
    }
    chosen = chosen or (Format.TABLE if sys.stdout.isatty() else Format.JSON)
    if chosen is Format.TABLE:
        for table in show_tables(found, document):
            show.draw(table, sys.stdout)
    elif chosen is Format.JSON:
        sys.stdout.write(json.dumps(document, allow_nan=False, indent=2) + "\n")
    else:  # rows of one kind alone fit the other formats
        rows = document["pairs"]
        cells = [[str(value) for value in row.values()] for row in rows]
        show.listing("pairs", rows, cells, chosen, columns=list(rows[0]) if rows else [])
    sys.stdout.flush()
