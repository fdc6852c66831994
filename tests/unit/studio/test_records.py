"""Lines of metrics: read once, whatever is wrong with them; thinned without losing a peak."""

import json
import math
import time

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.studio.panels import Shown, View, curves_of, drawn, panels_of, table
from t2v.studio.plots import Curve, smoothed, svg, wants_log
from t2v.studio.records import Record, Records, tail

VIEW = View((), by_hours=False, scale="auto", window=1, width=560)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, rows, mode="a"):
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_only_new_lines_are_read_and_a_torn_one_when_it_is_whole(path):
    write(path, [{"step": 1, "loss": 3.0}])
    record = Record(path)
    assert record.refresh().columns()["loss"].tolist() == [3.0]
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert len(record.refresh().columns()["step"]) == 1
    with path.open("a") as file:
        file.write('ss": 2.0, "psnr": 20}\n')
    columns = record.refresh().columns()
    assert columns["loss"].tolist() == [3.0, 2.0]
    assert math.isnan(columns["psnr"][0]) and columns["psnr"][1] == 20
    write(path, [{"step": 1, "loss": 9.0}], mode="w")  # a training that resumed drops lines
    assert record.refresh().columns()["loss"].tolist() == [9.0]


def test_what_is_no_figure_is_left_out(path):
    good = [{"step": 1, "loss": 1.0, "verdict": "flat: x"}, {"step": 2, "loss": math.nan}]
    write(path, good)
    with path.open("ab") as file:
        file.write(b"\0\0\0\n[1]\n{torn\n" + b"[" * 5000 + b"\n")
        file.write(b'{"loss": 5}\n{"step": "x", "loss": 1}\n{"step": 3, "loss": "high"}\n')
        file.write(b'{"step": 4, "loss": true, "big": 1' + b"0" * 400 + b"}\n")
        file.write(b'{"step": 5, "loss": Infinity}\n')
    columns = Record(path).refresh().columns()
    assert columns["step"].tolist() == [1, 2, 3, 4, 5]
    assert set(columns) == {"step", "loss"} and columns["loss"][0] == 1
    lines, last = tail(path, 2)
    assert [line["step"] for line in lines] == [4, 5] and last == good[0]
    path.write_bytes(b"")
    assert tail(path, 2) == ([], None) and len(Record(path).refresh().columns()["step"]) == 0


def test_the_mean_is_that_of_the_neighbours_and_of_fewer_at_the_ends():
    values = np.array([0.0, 3, 6, 3, 0])
    assert smoothed(values, 3).tolist() == [1.5, 3, 4, 3, 1.5]
    assert smoothed(values, 1) is values


def test_of_a_short_training_the_mean_is_over_few_steps(path):
    write(path, [{"step": s, "loss": float(s)} for s in range(1, 21)])
    shown, wide = [Shown("", Records().of(path), {})], View((), False, "auto", 501, 560)
    raw, mean = curves_of("loss", shown, wide)
    assert raw.is_faint and mean.y.tolist()[5:15] == raw.y.tolist()[5:15] and mean.y[0] == 2
    write(path, [{"step": 1, "loss": 1.0}], mode="w")
    (only,) = curves_of("loss", [Shown("", Records().of(path), {})], wide)
    assert only.y.tolist() == [1.0]


def test_a_peak_of_one_step_in_a_hundred_thousand_is_drawn(path):
    values = np.ones(100_000)
    values[54_321] = 7.0
    text = svg([Curve("loss", 0, np.arange(100_000.0), values)], "loss", "steps", 560, False)
    points = [each.split(",") for each in text.partition('data-points="')[2].split('"')[0].split()]
    assert len(points) < 1200
    assert [y for _, y in points].count("7") == 1
    assert min(float(y) for _, y in points) == 1


def test_the_axis_is_logarithmic_where_values_are_far_apart_and_positive():
    x = np.arange(100.0)
    assert wants_log([Curve("a", 0, x, 10 ** (x / 20))])
    assert not wants_log([Curve("a", 0, x, x + 100)])
    assert not wants_log([Curve("a", 0, x, x - 1)])
    assert "No values" in svg([Curve("a", 0, x, -x)], "a", "steps", 560, True)


def test_validations_stand_with_the_loss_and_have_the_interval_of_the_verdict(path):
    rows = [{"step": s, "loss": 1 / s, "seconds": 1800.0} for s in (1, 2, 3, 4)]
    rows[3] |= {"val_loss": 0.5, "val_loss_untuned": 0.9, "val_chance": 0.05, "val_change": -0.1}
    write(path, rows)
    shown = [Shown("", Records().of(path), {"val_loss": 0.9})]
    assert panels_of(shown) == ["loss", "seconds"]
    loss, val = curves_of("loss", shown, VIEW)
    assert (loss.half, val.label, val.x.tolist(), val.y.tolist()) == (
        *(None, "val_loss"),
        *([0, 4], [0.9, 0.5]),
    )
    assert math.isnan(val.half[0]) and val.half[1] == 0.05
    (panel,) = drawn(shown, VIEW)
    assert panel["svg"].count('class="interval') == 1
    assert table(shown, VIEW)["rows"] == [["0", "", "0.9"], ["4", "0.25", "0.5"]]
    hours = View((), by_hours=True, scale="auto", window=1, width=560)
    assert curves_of("loss", shown, hours)[0].x.tolist() == [0.5, 1, 1.5, 2]


def test_hostile_names_of_figures_stay_text(path):
    write(path, [{"step": 1, '"><script>x</script>': 1.0}])
    (panel,) = drawn([Shown("<b>", Records().of(path), {})], VIEW)
    assert "<script" not in panel["svg"] and "<b>" not in panel["svg"]


@pytest.mark.slow
def test_a_hundred_thousand_lines_are_drawn_in_under_300_ms(path):
    rows = [{"step": s, "loss": 1 / s, "grad_norm": 1.0, "seconds": 1.0} for s in range(1, 100_001)]
    write(path, rows)
    records = Records()
    records.of(path).columns()
    began = time.process_time()
    shown = [Shown("", records.of(path), {})]
    drawn(shown, View((), False, "auto", 25, 560))
    table(shown, VIEW)
    assert time.process_time() - began < 0.3
