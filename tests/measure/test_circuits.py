"""Sets of sites, adaptive scans and comparisons of rankings: on planted models, by hand, and by simulation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import hypergeom

from biasscope.engine.data import datasets
from biasscope.engine.data.datasets import occupations
from biasscope.engine.measure import circuits, sources
from biasscope.engine.model import planted, tokens
from biasscope.engine.statistics import circuits as faithfulness
from biasscope.engine.statistics import comparison, resampling
from biasscope.engine.statistics.summary import summarise
from biasscope.engine.store import digests
from biasscope.engine.types import EFFECTS, SUMMARY, Design, Site
from tests.support import slow
from tests.support.cli import biasscope
from tests.support.tables import shares, table

RNG = np.random.default_rng


# Circuits


def measured(lm, forest, wanted, source) -> pl.DataFrame:
    return pl.concat([unit.compute()["effects"] for unit in circuits.units(lm, forest, wanted, source)])


@pytest.mark.parametrize(("kind", "roles"), [("single", ["first"]), ("redundant", ["first", "second", "squash"])])
def test_the_planted_set_carries_all_and_its_complement_nothing(lab, kind, roles):
    lm, forest, _ = lab(kind)
    everything = frozenset(sources.sites(lm, ("z", "mlp_out")))
    plan = frozenset(planted.SITES[role] for role in roles)
    wanted = [circuits.none(everything), circuits.Point("keep", everything - plan), circuits.Point("remove", plan)]
    found = measured(lm, forest, wanted, sources.source("mean", lm, forest, list(everything)))
    share = {g: v["s"] if kind == "single" else v["q"] for g, v in planted.words().occupations.items()}
    f = dict(faithfulness.of_sets(found, model="m", design=Design(share)).select("position", "recovered").rows())
    assert f["keep"] == pytest.approx(1, abs=0.03) and f["remove"] == pytest.approx(0, abs=0.03)


def test_a_set_of_sites_equals_replacing_each_of_them_by_hand(tiny, examples):
    lm = tiny("gpt2")
    forest = tokens.forest(lm, examples)
    sites = [Site(0, "z", 1), Site(1, "mlp_out"), Site(3, "z", 2)]
    wanted = [circuits.Point("a", frozenset(sites)), circuits.Point("b", frozenset(sites[1:]))]
    found = measured(lm, forest, wanted, sources.source("zero", lm, forest, sites))
    new = slow.sources("zero", lm, examples, sites)
    for name, some in (("a", sites), ("b", sites[1:])):
        by_hand = {e.id: slow.scores(lm, e, [slow.replaced(s, *new[s]) for s in some])["target"] for e in examples}
        assert dict(found.filter(position=name).select("example_id", "value").rows()) == pytest.approx(by_hand, abs=5e-4)
    assert found.schema == EFFECTS


def test_f_and_its_areas_by_hand():
    # m(none) = 0, m(all) = 2: keeping 1 of 4 gives 1 (f = ½), 2 of 4 gives 2 (f = 1); area = ¼·½/2 + ¼·(½+1)/2 + ½·1 = 0.75
    frames = []
    for name, value in (("none", 0.0), ("keep-1", 1.0), ("keep-2", 2.0), ("remove-1", 1.0), ("remove-2", 0.0)):
        one = table(np.full((1, 12), value) + 0.01 * RNG(3).normal(size=12)).with_columns(component=pl.lit("set"), position=pl.lit(name))
        frames.append(one.with_columns(value="effect", baseline=pl.lit(2.0) + pl.col("effect") * 0))
    effects = pl.concat(frames)
    areas = faithfulness.areas(effects, 4, [1, 2])
    found = faithfulness.curve(faithfulness.of_sets(effects, model="m"), [1, 2], areas)
    ends = found.filter(statistic="area", method="keep").row(0, named=True)
    assert ends["ci_low"] < ends["estimate"] < ends["ci_high"] < ends["estimate"] + 0.02
    values = {(r["method"], r["subset"], r["statistic"]): r["estimate"] for r in found.iter_rows(named=True)}
    assert values["keep", "top 1", "faithfulness"] == pytest.approx(0.5, abs=0.01)
    assert values["keep", "all sizes", "area"] == pytest.approx(0.75, abs=0.01)
    assert values["keep", "all sizes", "area_abs"] == pytest.approx(0.25, abs=0.01)
    # removing 1 of 4 leaves f = ½ at x = ¾, removing 2 leaves 0 at ½: area = ¼·½/2 + ¼·(½+1)/2
    assert values["remove", "all sizes", "area"] == pytest.approx(0.25, abs=0.01)
    assert found.schema == SUMMARY


def test_f_is_null_where_the_whole_and_none_may_be_equal():
    noise = RNG(0).normal(size=(1, 12))
    frames = []
    for name in ("none", "keep-1"):
        one = table(noise).with_columns(component=pl.lit("set"), position=pl.lit(name), value="effect", baseline=pl.lit(0.0))
        frames.append(one)
    assert faithfulness.of_sets(pl.concat(frames), model="m")["recovered"].null_count() == 1


def test_halves_share_no_group_and_random_sets_have_the_size_of_the_set_beside_them():
    one, other = circuits.halves({f"g{i}": i for i in range(11)}, 0)
    assert not one & other and {len(one), len(other)} == {5, 6}
    pairs = {f"g{i}": i // 2 for i in range(20)}  # groups that are each other's twin stay together
    one, other = circuits.halves(pairs, 0)
    assert not {pairs[g] for g in one} & {pairs[g] for g in other} and one | other == set(pairs)
    sites = [Site(0, "z", i) for i in range(12)]
    found = circuits.points(sites, [1, 5], 0)
    assert len(found) == 2 * 2 * 21 and len({p.name for p in found}) == len(found)
    for point in found:
        k = int(point.name.split("-")[1])
        assert len(point.replaced) == (12 - k if point.name.startswith("keep") else k)
    assert found[0].replaced == frozenset(sites[1:]) and found[1].replaced == {sites[0]}


@pytest.mark.parametrize("needed", [{0}, {3}, {0, 7, 11}, set(range(12))])
def test_greedy_removal_keeps_what_is_needed_and_nothing_else(needed):
    sites = [Site(0, "z", i) for i in range(12)]
    asked = []

    def keeps(some):
        asked.append(len(some))
        return 1.0 if needed <= {s.head for s in some} else 0.1

    assert {s.head for s in circuits.greedy(sites, keeps, 0.8)} == needed
    assert len(asked) < 30


def test_of_two_heads_that_do_the_same_greedy_removal_keeps_one():
    sites = [Site(0, "z", i) for i in range(8)]
    found = circuits.greedy(sites, lambda some: float(bool({2, 5} & {s.head for s in some})), 0.8)
    assert [s.head for s in found] == [2]


def ranked(*arguments) -> str:
    """The name of the run that a command makes."""
    return json.loads(biasscope(*arguments)[1])["run"]["datasets"][0]["run_key"][:8]


def members(document, subset: str) -> list[str]:
    """The sites of a set, as the summary names them."""
    return [
        str(Site(r["layer"], r["component"], r["head"])) for r in document["summary"] if (r["subset"], r["statistic"]) == (subset, "member")
    ]


def test_circuit_finds_on_one_half_what_holds_on_the_other_and_single_ablation_misses(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    scan = ("--model", "planted:backup", "--dataset", "occupations", "--limit", 120, "--source", "zero")
    ablation = ranked("ablate", *scan, *where)
    _, out, err = biasscope("circuit", "--from", ablation, "--sizes", "1,2,19", "--minimal", *where)
    document = json.loads(out, parse_constant=pytest.fail)
    (part,) = document["run"]["datasets"]
    assert part["groups"] == 30 and part["dropped"] == {"its group chose the sites": 60}
    rows = {(r["method"], r["subset"], r["statistic"]): r for r in document["summary"]}
    assert abs(rows["keep", "top 2", "faithfulness"]["estimate"]) < 0.1  # the ranking does not know either of the two
    small = rows["keep", "minimal 1", "faithfulness"]
    assert small["ci_low"] < 1.0 < small["ci_high"] and small["estimate"] == pytest.approx(1, abs=0.05)
    assert members(document, "minimal 1") in (["L1H2"], ["L2H1"]) and len(members(document, "top 19")) == 19
    assert document["warnings"] == [] and "1 site keeps" in err
    assert rows["keep", "random 1", "faithfulness"]["n"] == 20
    code, _, err = biasscope("circuit", "--from", ablation, "--sizes", "0", *where, ok=False)
    assert code == 2 and "--sizes '0' cannot be read" in err
    code, _, err = biasscope("circuit", "--from", "ffffffff", *where, ok=False)
    assert code == 2 and "nothing is called 'ffffffff'" in err


def test_circuit_stops_early_where_all_sites_together_do_nothing_and_a_rerun_says_so_at_once(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    scan = ("ablate", "--model", "planted:single", "--dataset", "occupations", *where)
    idle = ranked(*scan, "--limit", 120, "--layers", 3)  # nothing is planted there
    for first in (True, False):
        code, out, err = biasscope("circuit", "--from", idle, "--sizes", "1,2", *where, ok=False)
        assert (code, out) == (4, "") and ("loading" in err) == first and "sets of sites" not in err
        assert "replacing all 5 sites (source mean) changes the slope of target by" in err and "which may be 0" in err
        assert "scan more sites (these are 5 of the model's 20 heads and MLPs)" in err
    few = ranked(*scan, "--limit", 8)
    code, _, err = biasscope("circuit", "--from", few, "--sizes", 1, *where, ok=False)
    assert code == 4 and "only 4 groups" in err and "without --limit" in err
    assert not list((tmp_path / "r").glob("*/*/circuit/*/run.json"))


@pytest.mark.parametrize("command", [("ablate",), ("patch", "--method", "exact", "--components", "z,mlp_out"), ("patch",)], ids="-".join)
def test_neither_half_of_a_circuit_depends_on_the_prompts_of_the_other(tmp_path, monkeypatch, command):
    read = occupations.read

    def found(changed=frozenset()):
        """The ranking of one half, and the other's groups and values of the whole model and of none, with some groups' prompts changed."""

        def texts(*arguments, **options):
            data = read(*arguments, **options)
            other = tuple(replace(e, prompt=f"It is raining. {e.prompt}") if e.group in changed else e for e in data.examples)
            return replace(data, examples=other, digest=digests.of_examples(other))

        monkeypatch.setattr(occupations, "read", texts)
        where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
        run = ranked(*command, "--model", "planted:single", "--dataset", "occupations", "--limit", 60, *where)
        document = json.loads(biasscope("circuit", "--from", run, "--sizes", "19", *where)[1])
        folder = Path(document["run"]["datasets"][0]["path"])
        effects, twins = pl.read_parquet(folder / "effects.parquet"), folder / "twins.parquet"
        assert not twins.is_file() or set(pl.read_parquet(twins)["partner"]) <= set(effects["group"])
        return members(document, "top 19"), set(effects["group"]), effects.filter(position="none").select("example_id", "baseline", "value")

    ranking, reporting, values = found()
    assert found(reporting)[0] == ranking and not found(reporting)[2].equals(values)
    choosing = {e.group for e in datasets.load("occupations", tmp_path).examples} - reporting
    assert found(choosing)[2].equals(values)


def test_a_circuit_of_chosen_sites_says_that_all_groups_chose_them(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    top = ranked("ablate", "--model", "planted:single", "--dataset", "occupations", "--limit", 60, "--top", 4, *where)
    warnings = json.loads(biasscope("circuit", "--from", top, "--sizes", "1", *where)[1])["warnings"]
    assert any("chose its 4 sites on all groups (--top 4)" in text for text in warnings)


# Adaptive scans


def test_the_bound_is_exact_for_draws_without_replacement():
    for population, drawn, seen in ((50, 20, 0), (280, 110, 0), (280, 60, 2), (30, 30, 1)):
        most = resampling.most_beyond(population, drawn, seen)
        assert hypergeom(population, most, drawn).cdf(seen) > 0.05 or most == seen
        assert most == population - drawn + seen or hypergeom(population, most + 1, drawn).cdf(seen) <= 0.05
    assert resampling.most_beyond(280, 110, 0) < 0.02 * 280 <= resampling.most_beyond(280, 109, 0)
    assert resampling.enough(280, 0.02) == 110
    assert resampling.most_beyond(280, 110, 0) < (1 - 0.05 ** (1 / 110)) * 280  # the bound of an endless population


def test_the_bound_fails_at_most_five_times_in_a_hundred():
    rng, misses = RNG(0), 0
    for _ in range(2000):
        beyond = int(rng.integers(0, 30))
        seen = int(hypergeom(200, beyond, 60).rvs(random_state=rng))
        misses += beyond > resampling.most_beyond(200, 60, seen)
    assert misses / 2000 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 2000)


def test_an_adaptive_scan_finds_the_same_top_with_less_work_and_says_what_it_leaves_open(tmp_path):
    where = ("--model", "planted:graded", "--dataset", "occupations", "--limit", 120, "-o", tmp_path / "r", "--cache-dir", tmp_path / "c")
    _, out, err = biasscope("ablate", *where, "--adaptive", "--top", 3, "--miss", 0.4, "--json")
    part, whole = json.loads(out), json.loads(biasscope("ablate", *where, "--json")[1])

    def first(document):
        rows = [r for r in document["summary"] if r["statistic"] == "slope"]
        return {(r["component"], r["layer"], r["head"]): r["estimate"] for r in rows[:3]}

    assert first(part) == pytest.approx(first(whole), abs=1e-6)
    said = {r["quantity"]: r["estimate"] for r in part["reliability"] if r["quantity"].startswith("adaptive")}
    assert 9 / 20 <= said["adaptive_measured"] < 1 and said["adaptive_beyond"] < 0.6
    assert "sites measured; at most" in err
    code, _, err = biasscope("ablate", *where, "--adaptive", "--source", "all", ok=False)
    assert code == 2 and "does not go with" in err


# Comparisons


def summary(values, component="z", model="m", dataset="d") -> pl.DataFrame:
    heads = component == "z"
    found = summarise(table(values, heads=heads, component=component), model=model, method="exact", design=Design(shares(20)))
    return found.with_columns(dataset=pl.lit(dataset))


def test_agreement_of_two_runs_by_hand_and_against_chance():
    share = shares(20)
    x = np.array([share[f"g{j:02d}"] for j in range(20)])
    x = (x - x.mean()) / x.std()
    slopes = np.array([5.0, 4, 3, 2, 1, 0.1, 0.2, 0.3, 0.4, 0.5])
    other = np.array([5.0, 4, 0.1, 2, 1, 3, 0.2, 0.3, 0.4, 0.5])
    noise = RNG(0).normal(0, 1.0, (10, 20))
    found = [r for i, v in enumerate((slopes, other)) for r in comparison.rankings(f"r{i}", 12, summary(v[:, None] * x + noise))]
    (row,) = comparison.pairs(found, 3)
    assert (row["first"], row["second"], row["sites"], row["shared"], row["expected"]) == ("r0", "r1", 10, 2, 0.9)
    assert row["p_shared"] == pytest.approx(hypergeom(10, 3, 3).sf(1))
    names = [r["site"] for r in comparison.common(found)]
    assert names[:2] == ["L0H0", "L0H1"] and "L0H2" not in names
    assert row["significant_both"] == len(names)


def test_models_are_compared_by_relative_depth():
    small, large = (np.repeat(np.linspace(0.1, 3, n)[:, None], 20, 1) * np.linspace(-1, 1, 20) for n in (12, 36))
    found = [
        comparison.rankings("a", 12, summary(small, "mlp_out", "m1"))[0],
        comparison.rankings("b", 36, summary(large, "mlp_out", "m2"))[0],
    ]
    assert comparison.pairs(found, 5) == []
    (row,) = comparison.depths(found)
    assert (row["slices"], row["spearman"]) == (10, pytest.approx(1.0))


def test_compare_reads_runs_by_key_and_refuses_what_ranks_nothing(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    data = ("--model", "planted:single", "--dataset", "occupations", "--limit", 60)
    keys = [
        json.loads(biasscope(command, *data, *more, *where)[1])["run"]["datasets"][0]["run_key"][:8]
        for command, more in (("ablate", ("--source", "all")), ("patch", ("--components", "z,mlp_out")), ("baseline", ()))
    ]
    document = json.loads(biasscope("compare", *keys[:2], "--top", 5, "-o", tmp_path / "r", "--json")[1], parse_constant=pytest.fail)
    assert {r["first"] for r in document["pairs"]} == {f"{keys[0]} {s}" for s in ("mean", "zero", "resample")}
    assert document["common"][0]["site"] == "L1H2" and len(document["common"][0]["estimates"]) == 4
    _, out, _ = biasscope("compare", *keys[:2], "-o", tmp_path / "r", "--format", "table")
    assert "significant in all" in out and "…" not in out.split("agreement of rankings")[1].split("signif.:")[0]
    code, _, err = biasscope("compare", keys[0], keys[2], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "which ranks no sites" in err
    code, _, err = biasscope("compare", keys[1], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "cannot be compared" in err
