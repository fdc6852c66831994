"""Settings of LoRAs: one or several, and presets of few-step ones."""

from pathlib import Path
from typing import get_args

import pytest

from t2v.config.load import load_config, save_config
from t2v.config.lora_presets import LORA_PRESETS
from t2v.config.sampling import LoRAPresetName, SampleConfig
from t2v.errors import UserError


def loaded(*overrides: str) -> SampleConfig:
    return load_config(SampleConfig, None, overrides)


def test_one_value_is_a_list_of_one_and_a_path_stays_as_it_is_written(tmp_path: Path) -> None:
    assert loaded("lora=a: b, #1.safetensors").lora == ("a: b, #1.safetensors",)
    config = loaded("lora=[a, b]", "lora_scale=[0.5, -1]", "lora_part=[transformer, transformer_2]")
    assert config.lora == ("a", "b") and config.lora_scale == (0.5, -1.0)
    assert loaded("lora=null", "lora_part=null") == SampleConfig()
    assert loaded("lora=[a, b]", "lora_scale=0.5").lora_scale == (0.5,)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(SampleConfig, tmp_path / "c.yaml", []) == config
    (tmp_path / "old.yaml").write_text("lora: a\nlora_scale: 0.5\nlora_part: transformer_2\n")
    old = load_config(SampleConfig, tmp_path / "old.yaml", [])
    assert (old.lora, old.lora_scale, old.lora_part) == (("a",), (0.5,), ("transformer_2",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["lora_scale=0.5"], r"lora_scale=0.5: it goes together with lora=FILE"),
        (["lora_part=transformer_2"], "lora_part=transformer_2: it goes together with lora=FILE"),
        (["lora_fit=partial"], "lora_fit=partial: it goes together"),
        (["lora_preset=causvid"], "lora_preset=causvid: it goes together"),
        (["lora=[a, b]", "lora_scale=[1, 2, 3]"], "3 values for 2 LoRA files. Give one for all"),
        (["lora=[a, b, c]", "lora_part=[transformer, transformer]"], "2 values for 3 LoRA files"),
        (["lora=a", "lora_scale=x"], "lora_scale takes a number, or"),
        (["lora=a", "lora_part=vae"], r"lora_part takes transformer \| transformer_2, or"),
        (["lora=a", "lora_scale=1e9"], "from -1,000 to 1,000"),
        (["lora=[a, '']"], "lora: a name is empty"),
        (["lora=a", "lora_preset=fast"], "wan21-lightx2v"),
        (["shift=0"], "shift=0.0: it must be more than 0"),
    ],
)
def test_settings_of_loras_that_contradict_each_other_are_one_message(given, words) -> None:
    with pytest.raises(UserError, match=words):
        loaded(*given)


def test_a_preset_sets_what_is_not_given_and_names_its_source() -> None:
    assert set(get_args(LoRAPresetName)) == LORA_PRESETS.keys()
    for name, preset in LORA_PRESETS.items():
        config = loaded("lora=a", f"lora_preset={name}")
        for each in ("num_inference_steps", "guidance_scale", "shift"):
            assert getattr(config, each) == getattr(preset, each)
        assert "/" in preset.source
    mine = loaded("lora=a", "lora_preset=causvid", "num_inference_steps=5", "shift=3")
    assert (mine.num_inference_steps, mine.guidance_scale, mine.shift) == (5, 1.0, 3.0)
