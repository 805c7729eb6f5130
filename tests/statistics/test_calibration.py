"""What a star may mean, on stored real effects: rare where there is nothing, likely for an effect of the
promised size.
"""

import re

import numpy as np
import pytest

from biasscope.engine.statistics.inference import estimates, resampling
from biasscope.engine.statistics.inference.audit import SlopeModel, audit
from tests.statistics import calibrate

STUDIES = 200
QUICK = [name for name in calibrate.ALARMS if not re.search(r"\(x, residual\)|--top (5|20)|--adaptive", name)]
"""The others are simulated by `make calibrate`."""


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 499)


@pytest.mark.parametrize("name", QUICK)
def test_stars_are_rare_where_there_is_nothing(name):
    passed, starred = calibrate.share(calibrate.ALARMS[name], STUDIES)
    assert passed <= 0.11
    assert starred <= passed


def test_a_star_of_chosen_sites_needs_the_family_they_were_chosen_from():
    y, _, x = calibrate.stored("winogender_ablate_mean")
    alarms = 0
    for seed in range(60):
        study, _ = calibrate.slope_study(np.random.default_rng((seed, 43)), y, x, again=False)
        columns = calibrate.estimates.slope(study, x, np.arange(len(x)), seed)
        chosen = np.argsort(-np.abs(columns["estimate"]))[:5]
        alone = calibrate.cells(study.total[:, chosen], np.ones(len(x)))
        alarms += calibrate.marked(
            calibrate.estimates.slope(alone, x, np.arange(len(x)), seed, calibrate.all_of(5))
        )[0]
    assert alarms / 60 > 0.15  # what the family of all 300 prevents


@pytest.mark.parametrize(("k", "statistic"), [(10, "mean"), (36, "slope")])
def test_an_effect_of_the_detectable_size_is_found_four_times_in_five(k, statistic):
    power = calibrate.power(k, statistic, 150, m=40)
    assert power is not None
    assert 0.68 <= power <= 0.95


def test_the_self_audit_tells_spread_from_nothing_and_is_the_same_each_time():
    y, _, x = calibrate.stored("winogender_ablate_mean")
    model = SlopeModel.of(x, y[:, ::6], np.arange(len(x)), 0)
    one, again = audit(model, 0), audit(model, 0)
    assert (one.symmetric, one.resampled) == (again.symmetric, again.resampled)
    assert one.symmetric <= 0.08 < one.resampled
    assert (one.family > one.alone).all()


def test_intervals_cover_95_of_100_where_groups_are_equal_and_are_marked_where_sizes_make_them_cover_less():
    equal, unequal = (
        calibrate.interval_study("mean", *cell)
        for cell in (("equal", "normal", 36), ("1 to 80", "t(2.5)", 12))
    )
    assert 0.93 <= calibrate.coverage(equal)[0] <= 0.97
    assert np.isnan(equal["caution"]).all()
    assert calibrate.coverage(unequal)[0] < 0.93
    assert (unequal["caution"] == estimates.UNEQUAL).all()
