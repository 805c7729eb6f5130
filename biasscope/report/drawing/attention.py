"""Where a head looks from a prompt's readout, as a notebook shows it: the tokens, coloured by weight."""

from dataclasses import dataclass
from html import escape

import polars as pl

from biasscope.console import safe_text
from biasscope.engine.types import Site

COLOUR = "200, 90, 30"
"""Of a token's ground; its strength is the token's share of the largest weight."""


@dataclass(frozen=True)
class Attention:
    """The weights with which one head attends, from a prompt's last token, to each of its tokens."""

    head: Site
    example: str
    weights: pl.DataFrame
    """A row per token: node, token, weight in [0, 1], term (is it of the word that the prompt is about)."""

    @property
    def term(self) -> float:
        """The weight that the term's tokens have together."""
        return float(self.weights.filter("term")["weight"].sum())

    def __repr__(self) -> str:
        tokens = " ".join(f"{row['token']!r} {row['weight'] or 0:.2f}" for row in self.weights.to_dicts())
        return f"<{self.head} in {self.example}, {self.term:.2f} to the term: {tokens}>"

    def _repr_html_(self) -> str:
        rows = self.weights.with_columns(pl.col("weight").fill_null(0.0)).to_dicts()
        largest = max(row["weight"] for row in rows) or 1.0
        spans = "".join(_span(row["token"], row["weight"], largest, term=row["term"]) for row in rows)
        said = f"{self.head}, from the last token of {escape(safe_text(self.example))}: {self.term:.2f} of "
        said += f"its weight to the term (underlined); largest {largest:.2f}"
        return f'<div style="white-space: pre-wrap">{spans} ▸</div><small>{said}</small>'


def _span(token: str, weight: float, largest: float, *, term: bool) -> str:
    """A token as HTML."""
    style = (
        f"background: rgba({COLOUR}, {weight / largest:.2f}){'; border-bottom: 2px solid' if term else ''}"
    )
    return f'<span title="{weight:.3f}" style="{style}">{escape(safe_text(token))}</span>'
