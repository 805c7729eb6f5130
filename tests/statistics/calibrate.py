"""How often stars appear where there is nothing, effects of the promised size are found, and intervals hold
the truth: by simulation.

`python -m tests.statistics.calibrate` (or `make calibrate`) prints the tables of docs/method.md, 1,000
studies a row; the default suite runs the quick form. The stored effects are group means of runs of biasscope
itself (see `stored`).
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from biasscope.engine import schemas
from biasscope.engine.statistics.cells import Cells, standard
from biasscope.engine.statistics.inference import estimates, resampling, slopes
from biasscope.engine.statistics.inference.audit import MeanModel, SlopeModel, audit
from biasscope.engine.statistics.inference.estimates import Family
from tests.support import races

HERE = Path(__file__).parent / "effects"
DRAWS = 999
"""Draws of a simulated study; a run takes 20,000."""


def stored(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group means `group site`, examples of each group, and its share of men (NaN where it has none).

    Made by `biasscope ablate` (exact) and `patch --source mean` (estimates) on SmolLM2-135M, and on
    planted:graded.
    """
    frame = pl.read_parquet(HERE / f"{name}.parquet")
    columns = [c for c in frame.columns if c not in ("group", "n", "x")]
    return (
        frame.select(columns).to_numpy().astype(float),
        frame["n"].to_numpy().astype(float),
        frame["x"].to_numpy(),
    )


def mean_study(rng: np.random.Generator, y: np.ndarray, n: np.ndarray, *, again: bool) -> Cells:
    """A study without any mean: the groups' residual sums drawn again, or with random signs."""
    total = n[:, None] * (y - (n @ y) / n.sum())
    rows = rng.integers(0, len(y), len(y)) if again else np.arange(len(y))
    signs = 1.0 if again else rng.choice([-1.0, 1.0], (len(y), 1))
    return cells(total[rows] * signs, n[rows])


def slope_study(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, *, again: bool
) -> tuple[Cells, np.ndarray]:
    """A study without any slope, and its x: (x, residual) drawn again, or residuals with random signs."""
    z = standard(x)
    residual = y - y.mean(0) - np.outer(z, slopes.line(z).slope(y))
    rows = rng.integers(0, len(y), len(y)) if again else np.arange(len(y))
    signs = 1.0 if again else rng.choice([-1.0, 1.0], (len(y), 1))
    return cells(residual[rows] * signs, np.ones(len(y))), x[rows]


def cells(total: np.ndarray, n: np.ndarray) -> Cells:
    """Cells of cluster sums of sites that all have the same examples."""
    return Cells(np.repeat(n[:, None], total.shape[1], 1), total, total**2)


def all_of(m: int) -> list[Family]:
    """One family of all sites."""
    return [Family(np.ones(m, bool), np.ones(m, bool))]


def marked(columns: dict[str, np.ndarray]) -> tuple[bool, bool]:
    """Whether anything passes the family-wise test, and whether anything is starred."""
    names = ("p_family", "ci_low", "ci_high", "carried_by", "caution")
    rows = pl.DataFrame({name: columns[name] for name in names}).fill_nan(None)
    rows = rows.with_columns(pl.col("caution").replace_strict(estimates.CAUTIONS, return_dtype=pl.String))
    return bool((columns["p_family"] < schemas.LEVEL).any()), rows.select(schemas.starred().any()).item()


def mean_alarms(name: str, *, again: bool) -> Callable[[int], tuple[bool, bool]]:
    """One study of the mean by its seed."""
    y, n, _ = stored(name)
    return lambda seed: marked(
        estimates.mean(
            mean_study(np.random.default_rng((seed, 41)), y, n, again=again), seed, all_of(y.shape[1])
        )
    )


def slope_alarms(name: str, *, again: bool) -> Callable[[int], tuple[bool, bool]]:
    """One study of the slope by its seed."""
    y, _, x = stored(name)

    def one(seed: int) -> tuple[bool, bool]:
        study, z = slope_study(np.random.default_rng((seed, 42)), y, x, again=again)
        return marked(estimates.slope(study, z, np.arange(len(z)), seed, all_of(y.shape[1])))

    return one


def top_alarms(
    exact: str, estimated: str, top: int, *, raced: bool = False
) -> Callable[[int], tuple[bool, bool]]:
    """One study of the slope at the sites that estimates of the same examples rank first, or that a race for
    the first `top` places measured whole.
    """
    (y, _, x), (guess, _, _) = stored(exact), stored(estimated)

    def one(seed: int) -> tuple[bool, bool]:
        # the same signs for both: an occupation's exact and estimated effects are turned together
        study, _ = slope_study(np.random.default_rng((seed, 43)), np.hstack([y, guess]), x, again=False)
        m = y.shape[1]
        size = np.abs(slopes.line(standard(x)).slope(study.total[:, m:]))
        chosen = np.isin(np.arange(m), np.argsort(-size)[:top])
        if raced:
            effects = (races.effects(study.total[:, :m]), races.effects(study.total[:, m:]))
            chosen = races.run(*effects, races.design(x, seed), {"k": top, "miss": 0.02}).whole
        own = np.hstack([chosen, np.zeros(m, bool)])
        family = Family(np.hstack([chosen, ~chosen]), own)
        return marked(
            {
                name: column[own]
                for name, column in estimates.slope(study, x, np.arange(len(x)), seed, [family]).items()
            }
        )

    return one


def share(one: Callable[[int], tuple[bool, bool]], studies: int) -> tuple[float, float]:
    """Shares of studies in which something passes, and in which something is starred."""
    passed, starred = np.mean([one(seed) for seed in range(studies)], axis=0)
    return float(passed), float(starred)


def power(k: int, statistic: str, studies: int, m: int = 60) -> float | None:
    """Share of fresh studies in which a site of the `detectable_family` size is starred; None where there is
    no size.

    The size is the mean of that of ten runs, because one run knows its errors only so well.
    """
    x, n = np.linspace(-1.7, 1.7, k), np.full(k, 4.0)

    def noise(seed: int, stream: int) -> np.ndarray:
        rng = np.random.default_rng((seed, k, stream))
        return rng.normal(size=(k, m)) + 0.7 * rng.normal(size=(k, 1))

    def size(seed: int) -> float:
        run = noise(seed, 44)
        slope = statistic == "slope"
        model = SlopeModel.of(x, run, np.arange(k), 0) if slope else MeanModel.of(run * 4, cells(run, n).n, 0)
        return float(np.median(audit(model, seed).family))

    effect = np.mean([size(seed) for seed in range(10)])
    if not np.isfinite(effect):
        return None
    found = 0
    for seed in range(studies):
        y = noise(seed, 45)
        y[:, 0] += effect * (standard(x) if statistic == "slope" else 1)
        if statistic == "slope":
            columns = estimates.slope(cells(y, np.ones(k)), x, np.arange(k), seed, all_of(m))
        else:
            columns = estimates.mean(cells(4 * y, n), seed, all_of(m))
        found += marked({name: column[:1] for name, column in columns.items()})[1]
    return found / studies


SIZES: dict[str, Callable[[int], np.ndarray]] = {
    "equal": lambda k: np.full(k, 4.0),
    "21 to 32": lambda k: np.linspace(21, 32, k).round(),
    "1 to 80": lambda k: np.geomspace(1, 80, k).round(),
}
"""Numbers of examples of k groups: as in WinoGender, as in StereoSet, and from one to many."""
VALUES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t(2.5)": lambda rng, shape: rng.standard_t(2.5, shape),
    "lognormal": lambda rng, shape: rng.lognormal(size=shape) - np.exp(0.5),
}
"""Values of groups, `group site`, whose mean is 0."""


def interval_study(statistic: str, sizes: str, values: str, k: int, sites: int = 2000) -> estimates.Columns:
    """The columns of sites at which the truth is 0, whose groups have these sizes and values.

    Mean: the examples of a group are alike, so that its size is its weight. Slope: the spread of a group's
    mean is 1/√size, and the sizes have nothing to do with x.
    """
    rng = np.random.default_rng((46, k))
    n = rng.permutation(SIZES[sizes](k))
    y = VALUES[values](rng, (k, sites))
    if statistic == "mean":
        return estimates.mean(cells(n[:, None] * y, n), 0, None)
    return estimates.slope(
        cells(y / np.sqrt(n)[:, None], np.ones(k)), np.arange(k, dtype=float), np.arange(k), 0
    )


def coverage(columns: estimates.Columns) -> tuple[float, float, float]:
    """Shares of the sites whose 95 % interval holds the truth, of those without a mark for which it does, and
    of those marked.
    """
    held = (columns["ci_low"] <= 0) & (columns["ci_high"] >= 0)
    marked = np.isfinite(columns["caution"])
    return (
        float(held.mean()),
        float(held[~marked].mean()) if not marked.all() else np.nan,
        float(marked.mean()),
    )


COVERED = [(sizes, k) for sizes in ("equal", "21 to 32") for k in (10, 36, 60)] + [("1 to 80", 12)]
"""Sizes and numbers of groups of the table of coverage."""
ALARMS = {
    "mean, groups drawn again, WinoGender": mean_alarms("winogender_ablate_mean", again=True),
    "mean, groups drawn again, StereoSet race": mean_alarms("race_attribution_mean", again=True),
    "mean, random signs, WinoGender": mean_alarms("winogender_ablate_mean", again=False),
    "slope, random signs, WinoGender": slope_alarms("winogender_ablate_mean", again=False),
    "slope, random signs, planted:graded": slope_alarms("planted_graded", again=False),
    "slope, (x, residual) drawn again, WinoGender": slope_alarms("winogender_ablate_mean", again=True),
    **{
        f"slope, random signs, --top {n}, WinoGender": top_alarms(
            "winogender_ablate_mean", "winogender_attribution_mean", n
        )
        for n in (5, 10, 20)
    },
    "slope, random signs, --adaptive, WinoGender": top_alarms(
        "winogender_ablate_mean", "winogender_attribution_mean", 10, raced=True
    ),
}
"""What is simulated → one study by its seed."""


def table(studies: int) -> Iterator[str]:
    """The lines of the table, as Markdown."""
    yield "| nothing there | passes p_family | a star |\n|---|--:|--:|"
    for name, one in ALARMS.items():
        passed, starred = share(one, studies)
        yield f"| {name} | {passed:.3f} | {starred:.3f} |"
    yield "\n| `detectable_family` found | k = 8 | 10 | 36 | 60 |\n|---|--:|--:|--:|--:|"
    for statistic in ("mean", "slope"):
        cells_ = (power(k, statistic, studies * 2 // 5) for k in (8, 10, 36, 60))
        yield f"| {statistic} | {' | '.join('–' if p is None else f'{p:.2f}' for p in cells_)} |"
    yield (
        f"\n| % covered, without ~ (% with ~) | group sizes | k | {' | '.join(VALUES)} "
        "|\n|---|---|--:|--:|--:|--:|"
    )
    for statistic in ("mean", "slope"):
        for sizes, k in COVERED:
            found = (coverage(interval_study(statistic, sizes, values, k)) for values in VALUES)
            shown = (
                f"{100 * all_:.1f}, {100 * plain:.1f} ({100 * marked:.0f})" for all_, plain, marked in found
            )
            yield f"| {statistic} | {sizes} | {k} | {' | '.join(shown)} |".replace("nan", "–")


if __name__ == "__main__":
    resampling.DRAWS = DRAWS
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
