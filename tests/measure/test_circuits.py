"""Sets of sites: what they measure on planted models, equals replacing each by hand, and how a smallest one
is found.
"""

import polars as pl
import pytest

from biasscope.engine.measure import circuits, sources
from biasscope.engine.model import planted, tokens
from biasscope.engine.schemas import EFFECTS
from biasscope.engine.statistics import circuits as faithfulness
from biasscope.engine.types import Design, Site
from tests.support import slow


def measured(lm, forest, wanted, source) -> pl.DataFrame:
    return pl.concat([unit.compute()["effects"] for unit in circuits.units(lm, forest, wanted, source)])


@pytest.mark.parametrize(
    ("kind", "roles"), [("single", ["first"]), ("redundant", ["first", "second", "squash"])]
)
def test_the_planted_set_carries_all_and_its_complement_nothing(lab, kind, roles):
    lm, forest, _ = lab(kind)
    everything = frozenset(sources.sites(lm, ("z", "mlp_out")))
    plan = frozenset(planted.SITES[role] for role in roles)
    wanted = [
        circuits.none(everything),
        circuits.Point("keep", everything - plan),
        circuits.Point("remove", plan),
    ]
    found = measured(lm, forest, wanted, sources.source("mean", lm, forest, list(everything)))
    share = {g: v["s"] if kind == "single" else v["q"] for g, v in planted.words().occupations.items()}
    f = dict(
        faithfulness.of_sets(found, model="m", design=Design(share)).select("position", "recovered").rows()
    )
    assert f["keep"] == pytest.approx(1, abs=0.03) and f["remove"] == pytest.approx(0, abs=0.03)


def test_a_set_of_sites_equals_replacing_each_of_them_by_hand(tiny, examples):
    lm = tiny("gpt2")
    forest = tokens.forest(lm, examples)
    sites = [Site(0, "z", 1), Site(1, "mlp_out"), Site(3, "z", 2)]
    wanted = [circuits.Point("a", frozenset(sites)), circuits.Point("b", frozenset(sites[1:]))]
    found = measured(lm, forest, wanted, sources.source("zero", lm, forest, sites))
    new = slow.sources("zero", lm, examples, sites)
    for name, some in (("a", sites), ("b", sites[1:])):
        by_hand = {
            e.id: slow.scores(lm, e, [slow.replaced(s, *new[s]) for s in some])["target"] for e in examples
        }
        assert dict(found.filter(position=name).select("example_id", "value").rows()) == pytest.approx(
            by_hand, abs=5e-4
        )
    assert found.schema == EFFECTS


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
