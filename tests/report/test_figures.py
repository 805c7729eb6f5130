"""Figures are whole and legible at every model's size, show the numbers they were given, and carry no markup
of the data.
"""

import itertools
import re

import numpy as np
import polars as pl
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from biasscope.engine.schemas import SUMMARY
from biasscope.report.drawing import canvas, figures, points

SIZES = [(12, 12), (36, 20), (48, 25)]
LONG = (
    "Heads of an-organisation/a-model-with-an-exceedingly-long-name-that-goes-on-v2\nstereoset_profession, "
    "slope: twin patched in, exact"
)


def sites(layers: int, heads: int | None, scale: float = 1.0, **columns) -> pl.DataFrame:
    """SUMMARY rows of every head (or of a component without heads) with distinct values."""
    rng = np.random.default_rng(layers)
    places = [(layer, head) for layer in range(layers) for head in (range(heads) if heads else [None])]
    values = scale * rng.normal(size=len(places))
    rows = {
        "layer": [p[0] for p in places],
        "head": [p[1] for p in places],
        "estimate": values,
        "ci_low": values - 0.3 * scale,
    }
    rows |= {
        "ci_high": values + 0.3 * scale,
        "p_family": np.where(np.abs(values) > 2 * scale, 0.01, 0.5),
        "position": ["all"] * len(places),
    }
    frame = pl.DataFrame(rows).with_columns(
        component=pl.lit("z" if heads else "mlp_out"), unit=pl.lit("nats/SD")
    )
    frame = frame.with_columns(**{name: pl.lit(value) for name, value in columns.items()})
    return pl.concat(
        [SUMMARY.to_frame(), frame.cast({k: v for k, v in SUMMARY.items() if k in frame.columns})],
        how="diagonal",
    )


def probe_rows(layers: int) -> pl.DataFrame:
    own = sites(layers, None, 0.1, method="probe", statistic="accuracy").with_columns(
        pl.col("estimate") + 0.7, component=pl.lit("resid")
    )
    shuffled = sites(layers, None, 0.02, method="shuffled", statistic="accuracy").with_columns(
        pl.col("ci_low", "ci_high") + 0.5
    )
    chosen = sites(layers, None, 1e-7, method="within groups", statistic="selectivity")
    bag = own.head(1).with_columns(layer=pl.lit(None, pl.Int32), method=pl.lit("bag of tokens"))
    return pl.concat([own, shuffled, chosen, bag])


def set_rows() -> pl.DataFrame:
    rows = []
    for method, kind, k in itertools.product(("keep", "remove"), ("top", "random"), (1, 2, 5, 10, 20, 50)):
        wide = 40.0 if k == 10 else 0.2
        rows.append(
            {
                "subset": f"{kind} {k}",
                "method": method,
                "estimate": k / 60,
                "ci_low": k / 60 - wide,
                "ci_high": k / 60 + wide,
            }
        )
    frame = pl.DataFrame(rows).with_columns(statistic=pl.lit("faithfulness"))
    return pl.concat([SUMMARY.to_frame(), frame], how="diagonal")


def positions(layers: int) -> pl.DataFrame:
    return pl.concat(
        [
            sites(layers, None, 0.3).with_columns(position=pl.lit(p), recovered=pl.lit(0.5))
            for p in ("term", "between", "readout")
        ]
    )


def people(count: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    names = [f"occupation with a long name {i}" for i in range(count)]
    return pl.DataFrame({"group": names, "x": rng.uniform(0, 100, count), "y": 3 * rng.normal(size=count)})


def means(count: int) -> pl.DataFrame:
    frame = people(count).select("group", mean="y")
    return frame.with_columns(ci_low=pl.col("mean") - 1, ci_high=pl.col("mean") + 1)


def graph(layers: int) -> pl.DataFrame:
    rows = [
        {
            "up": "embed",
            "up_x": 1.0,
            "up_y": 0.0,
            "down": f"L{i}H{i % 3}",
            "down_x": float(i % 5),
            "down_y": i + 1.0,
        }
        | {"estimate": 0.1 * i - 1, "exact": None if i % 2 else 0.1}
        for i in range(min(layers, 30))
    ]
    return pl.DataFrame(rows, schema_overrides={"exact": pl.Float64})


def every(layers: int, heads: int) -> dict[str, object]:
    letters = [chr(65 + i) for i in range(14)]
    shared = dict.fromkeys(itertools.combinations(letters, 2), (7, 0.4))
    names = [
        {"name": f"model {i} {'x' * 60}", "estimate": i - 3.0, "ci_low": i - 4.0, "ci_high": i + 4.0}
        for i in range(9)
    ]
    pairs = sites(layers, heads, 1e-3).with_columns(exact=pl.col("estimate") * 0.9)
    return {
        "heat_map": figures.heat_map(sites(layers, heads), title=LONG, largest=3.0, unit="nats/SD"),
        "heat_map of small values": figures.heat_map(
            sites(layers, heads, 1e-5), title=LONG, largest=3e-5, unit="nats"
        ),
        "bars": figures.bars(sites(layers, None, 1e-4), title=LONG, unit="nats/SD"),
        "positions": figures.positions(positions(layers), title=LONG, shown="recovered", unit="nats/SD"),
        "against_exact": points.against_exact(pairs, title=LONG, unit="nats/SD"),
        "probes": figures.probes(probe_rows(layers), title=LONG),
        "faithfulness": figures.faithfulness(set_rows(), title=LONG),
        "graph": figures.graph(graph(layers), title=LONG),
        "scatter": points.scatter(
            people(60), title=LONG, axes=("a covariate with a name, %", "target, nats: towards “he”")
        ),
        "dots": points.dots(
            means(60), title=LONG, axis="target, nats: towards the gender that the noun has", overall=0.3
        ),
        "overview": points.overview(names, title=LONG, unit="nats/SD"),
        "agreement": figures.agreement(letters, shared, top=10, title=LONG),
    }


def test_every_figure_is_drawn_here():
    own = {name for name, f in vars(figures).items() if getattr(f, "__module__", "") == figures.__name__}
    assert {name for name in own if not name.startswith("_")} <= every(*SIZES[0]).keys()


@pytest.mark.parametrize(("layers", "heads"), SIZES, ids=str)
def test_all_text_lies_inside_its_figure_and_no_two_tick_labels_meet(layers: int, heads: int):
    for name, figure in every(layers, heads).items():
        FigureCanvasAgg(figure).draw()  # places everything
        whole = figure.bbox
        for text in drawn(figure):
            box = text.get_window_extent()
            inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            assert inside, f"{name}: “{text.get_text()}” is cut off: {box} of {whole}"
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            boxes = [label.get_window_extent() for label in labels(axis)]
            assert not [1 for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)], (
                f"{name}: tick labels meet"
            )


def drawn(figure: Figure) -> list[Text]:
    """The texts that a figure shows: a tick outside the limits of its axis is not drawn."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {
        id(label) for axis in axes for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)
    }
    seen = {id(label) for axis in axes for label in labels(axis)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if id(text) not in ticks or id(text) in seen]


def labels(axis: Axis) -> list[Text]:
    """The tick labels that an axis draws."""
    found = [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
    return [label for label in found if label.get_visible() and label.get_text()]


def test_a_heat_map_shows_each_head_where_it_is_and_rings_the_significant():
    rows = sites(3, 2).with_columns(
        estimate=pl.Series([0.1, 0.2, 0.3, 0.4, None, 0.6]),
        p_family=pl.Series([0.5, 0.01, 0.5, 0.01, None, 0.04]),
        ci_low=pl.Series([0.0, 0.1, 0.1, -0.1, None, 0.4]),
        ci_high=pl.Series([0.2, 0.3, 0.5, 0.9, None, 0.8]),
    )
    axes = figures.heat_map(rows, title="t", largest=1.0, unit="nats").axes[0]
    grid = axes.images[0].get_array()
    assert grid.filled(-9).tolist() == [[0.1, 0.2], [0.3, 0.4], [-9, 0.6]]
    assert axes.collections[0].get_offsets().tolist() == [[1, 0], [1, 2]]  # head, layer
    assert axes.images[0].get_clim() == (-1.0, 1.0) and axes.images[0].origin == "lower"


def test_the_same_rows_give_the_same_bytes():
    one, two = (canvas.svg(figures.bars(sites(4, None), title="t", unit="nats"), "x") for _ in range(2))
    assert one == two


def test_svg_has_no_ids_in_common_with_another_and_takes_the_colour_of_the_page():
    one, two = (
        canvas.svg(figures.heat_map(sites(4, 3), title="t", largest=2.0, unit="nats"), name)
        for name in ("a", "b")
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    assert (
        set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one))
        and canvas.INK not in one
        and "currentColor" in one
    )
    assert all((a or b) in ids[0] for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one))


def test_markup_and_formulas_in_a_name_are_letters():
    hostile = "<script>alert(1)</script> $\\frac{1}{ &amp; ]]> \x1b[31m"
    text = canvas.svg(figures.bars(sites(4, None), title=hostile, unit="nats"), "x")
    assert "<script" not in text and "\x1b" not in text
