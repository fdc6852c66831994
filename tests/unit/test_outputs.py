from dataclasses import replace

import pytest
import yaml

from t2v.config.curation import CurateConfig
from t2v.config.load import save_config
from t2v.config.training import TrainVAEConfig
from t2v.errors import UserError
from t2v.outputs import OUTPUTS, output_folder


@pytest.fixture
def config(tmp_path):
    return CurateConfig(input="in", output=str(tmp_path / "out"))


def test_files_of_others_stop_a_command_and_are_named_unless_told_to_overwrite(config, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("report.html", "config.yaml", "photo.mp4"):
        (tmp_path / "out" / name).write_text("MINE")
    wanted = r"config\.yaml, report\.html, which `t2v curate`"
    with pytest.raises(UserError, match=wanted), output_folder(config):
        pass
    with output_folder(replace(config, overwrite=True)) as kept:
        assert kept == config  # to overwrite is said once, and stored nowhere
    (tmp_path / "out" / "config.yaml").unlink()
    (tmp_path / "out" / "report.html").unlink()
    with output_folder(config):
        pass  # photo.mp4 is in nobody's way


def test_the_same_command_goes_on_in_its_own_output_and_another_one_does_not(config, tmp_path):
    with output_folder(config):
        save_config(config, tmp_path / "out" / "config.yaml")
        (tmp_path / "out" / "report.html").write_text("ours")
    with output_folder(config):
        pass
    other = TrainVAEConfig(data="wd", output=config.output)
    wanted = r"holds config\.yaml, which `t2v train-vae` did not"
    with pytest.raises(UserError, match=wanted), output_folder(other):
        pass


def test_outputs_of_before_there_was_a_mark_are_gone_on_with(config, tmp_path):
    path = tmp_path / "out" / "config.yaml"
    path.parent.mkdir()
    save_config(config, path)
    values = yaml.safe_load(path.read_text())
    del values["overwrite"]
    path.write_text(yaml.safe_dump(values))
    with output_folder(config):
        pass
    path.write_text("input: [in]\noutput: out\n")  # what a person writes: only differences
    with pytest.raises(UserError, match=r"config\.yaml"), output_folder(config):
        pass


@pytest.mark.parametrize("schema", OUTPUTS, ids=lambda each: each.__name__)
def test_every_command_with_an_output_can_be_told_to_overwrite(schema):
    assert schema.__dataclass_fields__["overwrite"].default is False
