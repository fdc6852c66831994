"""Budgets of an error as fields of a request."""

import pytest

from t2v.config.serve import ServeConfig
from t2v.queue.job import check_settings
from t2v.serve.errors import Refused
from t2v.serve.fields import wanted_of
from t2v.serve.offer import Offer
from t2v.serve.told import fields_of

CONFIG = ServeConfig(queue="q")
OFFER = Offer.read(["t2v-tiny"], [])


def test_a_budget_becomes_a_setting_of_the_job_and_is_told_again():
    wanted = wanted_of({"prompt": "a red ball", "max_error": 0.12, "min_psnr": 30}, CONFIG, OFFER)
    config = check_settings(wanted.settings)
    assert (config.max_error, config.min_psnr) == (0.12, 30)
    fields, rest = fields_of(wanted.settings, None, OFFER)
    assert (fields["max_error"], fields["min_psnr"], rest) == (0.12, 30, [])
    without = wanted_of({"max_error": None}, CONFIG, OFFER, before=wanted)
    assert check_settings(without.settings).max_error is None
    assert check_settings(without.settings).min_psnr == 30


@pytest.mark.parametrize(
    "given",
    [
        {"max_error": 0},
        {"max_error": "small"},
        {"min_psnr": 1e9},
        {"max_error": 0.1, "scenes": [{"prompt": "a red ball", "seconds": 1}]},
    ],
)
def test_a_budget_out_of_range_or_beside_scenes_is_refused(given):
    with pytest.raises(Refused, match=r"max_error|min_psnr"):
        wanted_of({"prompt": "a red ball", **given}, CONFIG, OFFER)
