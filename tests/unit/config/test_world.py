"""`t2v world`, `t2v world text` and `t2v world oracle` were one command; its files still load."""

import pytest
import yaml

from t2v.config.load import load_config, save_config
from t2v.config.world import WorldClipsConfig, WorldOracleConfig, WorldTextConfig
from t2v.config.written import wrote_config
from t2v.errors import UserError

# as it was written, the settings that had no effect not at their defaults either
ALL = {
    "output": "out", "overwrite": False, "count": 9, "data": "clips", "steps": 7, "batch_size": 5,
    "lr": 0.1, "start_from": None, "split": "heldout", "num_frames": 5, "height": 16, "width": 32,
    "fps": 4, "seed": 3, "workers": 1,
}  # fmt: skip
WANTED = {
    "clips": WorldClipsConfig(
        output="out", count=9, split="heldout", num_frames=5, height=16, width=32, fps=4, seed=3,
        workers=1,
    ),
    "text": WorldTextConfig(output="out", count=9, steps=7, batch_size=5, lr=0.1, seed=3),
    "oracle": WorldOracleConfig(
        output="out", data="clips", steps=7, batch_size=5, lr=0.1, seed=3
    ),
}  # fmt: skip
SCHEMAS = [type(config) for config in WANTED.values()]


@pytest.mark.parametrize("mark", ["# written by t2v: WorldConfig\n", ""])
@pytest.mark.parametrize("make", WANTED)
def test_a_file_of_the_one_command_loads_under_the_command_it_was_for(make, mark, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(mark + yaml.safe_dump({"make": make} | ALL))
    assert load_config(type(WANTED[make]), file, []) == WANTED[make]
    assert [each for each in SCHEMAS if wrote_config(file, each)] == [type(WANTED[make])]
    for other in SCHEMAS:
        if other is not type(WANTED[make]):
            with pytest.raises(UserError, match=f"make: {make}: .*`t2v world oracle` trains"):
                load_config(other, file, [])


@pytest.mark.parametrize("config", WANTED.values(), ids=WANTED)
def test_a_folder_belongs_to_the_command_that_wrote_it(config, tmp_path):
    save_config(config, tmp_path / "config.yaml")
    owners = [each for each in SCHEMAS if wrote_config(tmp_path / "config.yaml", each)]
    assert owners == [type(config)]
