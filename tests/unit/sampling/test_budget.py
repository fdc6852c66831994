"""The row that a budget takes: the surely fastest of those whose bounds keep within it."""

from dataclasses import replace

import pytest

from t2v.acceleration.table import Exact, Measured, Row, Setting, Table, worth_it
from t2v.config.sampling import SampleConfig
from t2v.sampling.budget import fastest, goes_with


def row(steps, most_error, least_psnr, speed, reason=None):
    figures = Measured(
        error=most_error / 2, most_error=most_error, psnr=least_psnr + 3, least_psnr=least_psnr,
        speed=speed, speed_low=speed - 0.1, speed_high=speed + 0.1,
    )  # fmt: skip
    return Row(
        setting=Setting(num_inference_steps=steps),
        measured=None if reason else figures,
        reason=reason,
    )


ROWS = (
    row(1, 0.5, 15.0, 6.0, reason="it does not fit"),
    row(2, 0.2, 25.0, 3.0),
    row(3, 0.25, 26.0, 2.5),
    row(4, 0.1, 30.0, 2.0),
    row(5, 0.05, 35.0, 1.5),
    row(8, 0.01, 45.0, 1.05),  # its interval holds 1
)
EXACT = Exact(
    weights="a" * 64, scheduler=None, num_inference_steps=8, guidance_scale=1.5,
    negative_prompt="", size=(17, 64, 64),
)  # fmt: skip
TABLE = Table(
    exact=EXACT, prompts=8, share=0.98, confidence=0.95, on="cpu fp32", versions={}, rows=ROWS
)


@pytest.mark.parametrize(
    ("max_error", "min_psnr", "steps"),
    [
        (0.3, None, 2),
        (0.1, None, 4),
        (0.09, None, 5),
        (0.02, None, None),
        (None, 26.0, 3),
        (0.3, 28.0, 4),
        (None, 50.0, None),
    ],
)
def test_the_surely_fastest_row_within_both_budgets_is_taken(max_error, min_psnr, steps):
    found = fastest(TABLE, max_error, min_psnr)
    assert (None if found is None else found.setting.num_inference_steps) == steps


def test_rows_that_do_not_go_with_other_settings_are_told_apart():
    merged, cached = (
        replace(ROWS[1], setting=replace(ROWS[1].setting, **changes))
        for changes in ({"token_merging": 0.3}, {"cache": "taylor:2"})
    )
    assert all(goes_with(each, SampleConfig()) for each in (merged, cached, ROWS[1]))
    compiled = SampleConfig(compile=True)
    assert [goes_with(each, compiled) for each in (merged, cached, ROWS[1])] == [0, 0, 1]


def test_rows_worth_their_price_are_bettered_by_no_faster_one():
    assert [ROWS[each].setting.num_inference_steps for each in worth_it(ROWS)] == [2, 4, 5]
