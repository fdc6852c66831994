"""`t2v eval` and `t2v eval footage` were one command, and what its files held goes on loading."""

from dataclasses import asdict

import pytest
import yaml

from t2v.config.data import ClipsConfig
from t2v.config.evaluation import EvalConfig, FootageEvalConfig
from t2v.config.load import load_config, save_config
from t2v.config.written import wrote_config
from t2v.errors import UserError

BOTH = asdict(FootageEvalConfig(output="out", data="")) | asdict(EvalConfig(output="out"))
MARK = "# written by t2v: EvalConfig\n"


def lists(values):
    if isinstance(values, dict):
        return {name: lists(each) for name, each in values.items()}
    return list(values) if isinstance(values, tuple) else values


@pytest.fixture
def file(tmp_path):
    """Writes the `config.yaml` that the one command wrote, with some settings given."""

    def write(mark=MARK, **given):
        path = tmp_path / "config.yaml"
        path.write_text(mark + yaml.safe_dump(lists(BOTH | {"data": None} | given)))
        return path

    return write


@pytest.mark.parametrize("mark", [MARK, ""])
def test_a_file_with_the_settings_of_both_loads_under_the_command_it_was_for(file, mark):
    prompts = file(mark, count=9)
    assert load_config(EvalConfig, prompts, []) == EvalConfig(output="out", count=9)
    assert wrote_config(prompts, EvalConfig) and not wrote_config(prompts, FootageEvalConfig)
    footage = file(mark, data="films", draws=2, clips=asdict(ClipsConfig(fps=8)))
    wanted = FootageEvalConfig(output="out", data="films", draws=2, clips=ClipsConfig(fps=8))
    assert load_config(FootageEvalConfig, footage, []) == wanted
    assert wrote_config(footage, FootageEvalConfig) and not wrote_config(footage, EvalConfig)


@pytest.mark.parametrize(
    ("schema", "given", "command"),
    [
        (EvalConfig, {"data": "films"}, "t2v eval footage"),
        (EvalConfig, {"held_out": 9}, "t2v eval footage"),
        (EvalConfig, {"clips": asdict(ClipsConfig(fps=8))}, "t2v eval footage"),
        (FootageEvalConfig, {"data": "films", "suites": ["motion"]}, "t2v eval"),
        (FootageEvalConfig, {"data": "films", "oracle": "x"}, "t2v eval"),
    ],
)
def test_what_the_other_command_does_is_refused_and_it_is_named(file, schema, given, command):
    name = list(given)[-1]
    with pytest.raises(UserError, match=rf"config\.yaml, {name}.*use `{command}`"):
        load_config(schema, file(**given), [])


def test_on_the_command_line_no_setting_of_the_other_command_is_taken():
    with pytest.raises(UserError, match=r"data=x: .*use `t2v eval footage`"):
        load_config(EvalConfig, None, ["output=o", "data=x"])
    with pytest.raises(UserError, match=r"count=512: .*use `t2v eval`"):
        load_config(FootageEvalConfig, None, ["output=o", "data=x", "count=512"])


@pytest.mark.parametrize(
    "config", [EvalConfig(output="o"), FootageEvalConfig(output="o", data="x", draws=3)]
)
def test_a_folder_belongs_to_the_command_that_wrote_it(config, tmp_path):
    save_config(config, tmp_path / "config.yaml")
    owners = [
        schema
        for schema in (EvalConfig, FootageEvalConfig)
        if wrote_config(tmp_path / "config.yaml", schema)
    ]
    assert owners == [type(config)]
