"""Metrics worked out by hand from the log-probabilities of one pass."""

import math

import pytest
import torch

from biasscope.engine.model.forward import Readouts
from biasscope.engine.model.metrics import METRICS, sentence_logp
from biasscope.engine.model.packing import MASS

NAN = math.nan
# one copy, two examples: a StereoSet one with sentences of 4, 5 and 2 tokens, a WinoGender one with two
# pronouns
LOGP = torch.tensor(
    [[[-2.0, -3.0, -7.0, -8.0, -20.0, -9.0], [math.log(0.2), math.log(0.1), NAN, NAN, NAN, NAN]]]
)
READ = Readouts(LOGP, torch.tensor([[1, 2, 1, 4, 5, 2], [1, 1, 0, 0, 0, 0]]), torch.tensor([MASS, MASS]))


def by_hand(name: str) -> list[float]:
    return METRICS[name].fn(READ)[0].tolist()


def test_target_is_stereo_minus_anti():
    assert by_hand("target") == pytest.approx([1.0, math.log(2)])


def test_sentence_is_the_difference_of_means_per_token():
    assert sentence_logp(READ)[0, 0].tolist() == pytest.approx([-2.0, -4.0, -4.5])
    assert by_hand("sentence")[0] == pytest.approx(2.0)
    assert math.isnan(by_hand("sentence")[1])


def test_competence_is_sense_over_nonsense_or_the_mass_of_the_pronouns():
    assert by_hand("competence") == pytest.approx([-2.5 + 7.0, math.log(0.3)])


def test_kl_of_the_clean_run_is_zero():
    assert by_hand("kl") == [0.0, 0.0]


def test_a_metric_is_defined_where_its_slots_were_scored():
    assert METRICS["sentence"].defined(READ).tolist() == [True, False]
    assert METRICS["target"].defined(READ).tolist() == [True, True]
