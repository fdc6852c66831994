"""Every row of `STAGES` is a stage with settings, and the limits that scores name are settings."""

import subprocess
import sys
from dataclasses import fields

import pytest

from t2v.config.captions import ReportConfig
from t2v.config.curation import ALL_STAGES, STAGES, CurateConfig
from t2v.config.load import load_config
from t2v.curation.stages import load_stages
from t2v.errors import UserError

CONFIG = CurateConfig(input="in", output="out")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_settings_of_its_name_and_limits_that_are_among_them(name):
    stage = load_stages()[name]
    assert stage.run.__name__ == name
    assert stage.run.__module__ == STAGES[name]
    settings = {field.name for field in fields(getattr(CONFIG, name))}
    limits = {limit for score in stage.scores.values() for limit in (score.at_least, score.at_most)}
    assert limits - {""} <= settings


def test_a_process_that_reads_films_waits_for_no_network_of_captions():
    code = (
        "import sys; from t2v.curation.stages import load_stages; load_stages(); "
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_stages_run_in_the_order_of_the_table_and_can_be_chosen_by_kind():
    assert tuple(load_stages()) == tuple(STAGES)
    shots = load_stages("shot")
    assert "motion" in shots and "dedup" not in shots
    assert list(shots) == [name for name in STAGES if name in shots]
    assert set(load_stages("shot", "all", "clip")) == set(STAGES)


def test_no_two_stages_give_the_same_score():
    names = [score for stage in load_stages().values() for score in stage.scores]
    assert len(names) == len({*names, "seconds"}) - 1


def test_stages_that_do_not_exist_cannot_be_skipped():
    with pytest.raises(UserError, match=r"\['motoin'\].*probe, scenes, quality,.* motion"):
        CurateConfig(input="in", output="out", skip=("motoin", "motion"))
    CurateConfig(input="in", output="out", skip=ALL_STAGES)


def test_a_config_of_before_loads_without_the_setting_that_did_nothing(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("input: in\noutput: out\nreport:\n  pictures: 3\n  side: 200\n")
    assert load_config(CurateConfig, file, []).report == ReportConfig(pictures=3)
    with pytest.raises(UserError, match=r"report\.side is no longer a setting of this command"):
        load_config(CurateConfig, file, ["report.side=100"])
