"""Settings: defaults, file, `name=value`, and messages that name the way out."""

import subprocess
import sys
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import ClassVar, Literal, get_args, get_origin

import pytest

import t2v.config
from t2v.config.data import CurriculumStage, EncodeConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.load import load_config, save_config
from t2v.config.retired import Retired
from t2v.config.sampling import SampleConfig
from t2v.config.schema import settings, type_words
from t2v.config.training import OptimConfig, TasksConfig, TrainDiTConfig, TrainVAEConfig
from t2v.config.upscale import ConvertConfig
from t2v.errors import UserError

ROOT = Path(__file__).parents[2]
REQUIRED = ["output=runs/a", "data=d", "vae=v", "text=t"]
MODULES = [
    import_module(f"t2v.config.{module.name}") for module in iter_modules(t2v.config.__path__)
]
# read by other settings; the range of `tasks.frames`, a share, goes by its whole name
NOT_ALONE = (Retired, TasksConfig)
SCHEMAS = list(
    dict.fromkeys(
        each
        for module in MODULES
        for each in vars(module).values()
        if is_dataclass(each) and each.__module__ == module.__name__ and each not in NOT_ALONE
    )
)


def required_of(schema):
    required = {n: hint for n, (hint, default) in settings(schema).items() if default is MISSING}
    return [f"{name}={given(hint)}" for name, hint in required.items()]


def given(hint):
    """A value of a type, as it is written on a command line."""
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        if is_dataclass(part):
            return "[{" + ",".join(each.replace("=", ": ") for each in required_of(part)) + "}]"
        return "[x,y]"
    # the name of a repo of the Hub takes an owner; for all else any text does
    return {float: "1.5", int: "3"}.get(hint, "x/y")


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_a_saved_config_loads_back_equal(schema, tmp_path):
    saved = load_config(schema, None, required_of(schema))
    save_config(saved, tmp_path / "config.yaml")
    assert load_config(schema, tmp_path / "config.yaml", []) == saved


def test_changed_values_of_every_kind_load_back_equal(tmp_path):
    saved = load_config(
        TrainVAEConfig,
        None,
        ["output=${x}/\\a: b", "data=yes", "model.block_out_channels=[64,64,32]", "optim.lr=1e-3",
         "model.temporal_downsample=[true,false]", "model.spatial_downsample=[true,true]",
         "model.mid_block=true", "model.mid_attention=true", "model.norm=group", "steps=7"],
    )  # fmt: skip
    save_config(saved, tmp_path / "config.yaml")
    loaded = load_config(TrainVAEConfig, tmp_path / "config.yaml", [])
    assert loaded == saved
    assert loaded.output == "${x}/\\a: b"
    assert loaded.model.block_out_channels == (64, 64, 32)
    assert isinstance(loaded.model.patch_size, tuple)


def test_the_file_beats_the_default_and_the_override_beats_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 5\noptim:\n  lr: 1\n  warmup_steps: 3\n")
    loaded = load_config(TrainDiTConfig, file, [*REQUIRED, "optim.warmup_steps=4"])
    assert (loaded.steps, loaded.optim.lr, loaded.optim.warmup_steps) == (5, 1.0, 4)
    assert loaded.batch_size == TrainDiTConfig.batch_size


@pytest.mark.parametrize("text", ["yes", "1e3", "null:", "[a", "a: b", "${home}", "1", ""])
def test_text_is_taken_as_it_stands(text):
    loaded = load_config(SampleConfig, None, [f"negative_prompt={text}"])
    assert loaded.negative_prompt == text


def test_an_optional_number_can_be_set_and_unset():
    loaded = load_config(SampleConfig, None, ["duration=2", "height=64", "height=null"])
    assert loaded.duration == 2.0 and isinstance(loaded.duration, float)
    assert loaded.height is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lrr=1", ["lrr", "optim.lr"]),
        ("optim.nmae=adamw", ["optim.nmae=adamw", "Did you mean optim.name"]),
        ("optim.zzzz=1", ["Allowed", "optim.lr", "optim.ema_decay"]),
        ("optim=adamw", ["no setting 'optim'", "optim.lr"]),
        ("optim.lr=abc", ["optim.lr=abc", "takes a number"]),
        ("steps=1.5", ["steps=1.5", "takes a whole number"]),
        ("steps=", ["takes a whole number"]),
        ("steps=[1", ["steps=[1"]),
        ("objective=flaw", ["objective=flaw", "flow | v | epsilon"]),
        ("model.patch_size=[1,2]", ["[int, int, int]"]),
        ("model.patch_size=[1,2,x]", ["[int, int, int]"]),
        ("model.patch_size={a: 1}", ["[int, int, int]"]),
        ("train_text_encoder=maybe", ["takes true or false"]),
        ("noequals", ["noequals", "name=value"]),
    ],
)
def test_a_wrong_override_says_what_was_given_and_what_is_allowed(override, words):
    with pytest.raises(UserError) as error:
        load_config(TrainDiTConfig, None, [*REQUIRED, override])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: [1\n", ["cannot be read as YAML"]),
        ("- 1\n", ["name: value"]),
        ("stepz: 3\n", ["stepz", "Did you mean steps"]),
        ("optim: {lr: abc}\n", ["optim.lr", "a number"]),
        (
            "steps: {a: 1}\n",
            ["steps.a: 1", "steps takes a whole number, and no settings of its own"],
        ),
        ("steps: {}\n", ["steps: {}", "takes a whole number"]),
        ("optim: 3\n", ["optim: 3", "no setting 'optim'"]),
        (
            "clips: {stages: [{from_step: 0, resolutoin: 8}]}\n",
            ["clips.stage 1", "Did you mean resolution"],
        ),
        (
            "clips: {stages: [{from_step: half}]}\n",
            ["clips.stage 1", "from_step: half: it takes a whole"],
        ),
        ("clips: {stages: 3}\n", ["clips.stages: 3", "takes [{from_step,"]),
        ("output: [yes]\n", ["output: [yes]", "takes text"]),
        ("output:\n", ["output", "takes text"]),
        ("steps: ${nothing}\n", ["steps: ${nothing}", "takes a whole number"]),
        ("steps: 1\nsteps: 2\n", ["steps stands there twice"]),
    ],
)
def test_a_wrong_file_says_where(text, words, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(TrainDiTConfig, file, REQUIRED)
    for word in [*words, "bad.yaml"]:
        assert word in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: there is no such file"):
        load_config(TrainDiTConfig, tmp_path / "nowhere.yaml", [])


def test_the_paths_of_a_shipped_file_are_found_from_any_folder(tmp_path, monkeypatch):
    folder = ROOT / "configs" / "finetune"
    for here, base in ((ROOT, Path()), (tmp_path, ROOT)):
        monkeypatch.chdir(here)
        for file in (Path("configs/finetune/peft.yaml"), folder / "peft.yaml"):
            if here == ROOT or file.is_absolute():
                config = load_config(FinetuneConfig, file, [])
                assert config.base_prompts == str(base / "configs/finetune/base_prompts.txt")
                assert config.peft == str(base / "configs/finetune/lokr.json")
                assert config.data == "runs/toys"  # what a run makes stays where one works
        train = load_config(TrainDiTConfig, ROOT / "configs/train/tiny2.yaml", [])
        assert {train.vae, train.text, train.start_from} == {str(base / "assets/t2v-tiny")}
    words = ["base_prompts=base_prompts.txt"]  # of the command line: from where one works
    assert load_config(FinetuneConfig, folder / "lora.yaml", words).base_prompts == words[0][13:]


def test_all_missing_required_settings_are_named_at_once():
    with pytest.raises(UserError, match=r"^data, vae, text: required.*data=VALUE"):
        load_config(TrainDiTConfig, None, ["output=x"])


def test_settings_lists_nested_names_types_and_defaults():
    known = settings(TrainDiTConfig)
    assert known["optim.lr"] == (float, OptimConfig.lr)
    assert type_words(known["optim.name"][0]) == "muon | adamw"
    assert type_words(settings(SampleConfig)["height"][0]) == "int | null"
    assert type_words(known["model.patch_size"][0]) == "[int, int, int]"


def test_the_package_settings_import_neither_torch_nor_yaml():
    code = "import sys, t2v.config.load; sys.exit(bool({'torch', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_schema_is_frozen_and_every_field_has_a_plain_type():
    for schema in SCHEMAS:
        assert schema.__dataclass_params__.frozen, schema
        assert all(type_words(hint) for hint, _ in settings(schema).values())
        assert len(fields(schema)) > 0


def test_convert_takes_a_source_and_a_target():
    assert load_config(ConvertConfig, None, ["src=a", "dst=b"]) == ConvertConfig(src="a", dst="b")


def test_a_list_of_groups_is_read_checked_and_written_back(tmp_path):
    given = "clips.stages=[{num_frames: 5, image_ratio: 0.25}, {from_step: 100}]"
    config = load_config(TrainDiTConfig, None, [given, *REQUIRED])
    first, second = config.clips.stages
    assert (first, second) == (
        CurriculumStage(num_frames=5, image_ratio=0.25),
        CurriculumStage(from_step=100),
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(TrainDiTConfig, tmp_path / "config.yaml", []) == config
    for wrong, words in (
        ("{frames: 5}", "there is no setting 'frames'. Did you mean num_frames"),
        ("{num_frames: five}", "num_frames: five: it takes a whole number or null"),
        ("5", "5 is no group of settings. Give {from_step, resolution"),
        ("{from_step: null}", "from_step: null: it takes a whole number"),
    ):
        with pytest.raises(UserError, match=rf"clips\.stage 2: {words}"):
            load_config(TrainDiTConfig, None, [f"clips.stages=[{{}}, {wrong}]", *REQUIRED])


def test_a_word_of_another_program_is_answered_by_the_setting_it_stands_for():
    for schema, word, named in (
        (SampleConfig, "steps", "num_inference_steps"),
        (SampleConfig, "cfg", "guidance_scale"),
        (TrainDiTConfig, "learning_rate", "optim.lr"),
    ):
        with pytest.raises(UserError, match=rf"no setting '{word}'. Did you mean {named}\?"):
            load_config(schema, None, [f"{word}=3", *REQUIRED])


def test_a_group_has_the_defaults_of_the_command_it_belongs_to():
    assert settings(TrainDiTConfig)["optim.name"][1] == "muon"
    assert settings(FinetuneConfig)["optim.name"][1] == "adamw"
    assert settings(FinetuneConfig)["optim.warmup_steps"][1] == 20


ENVIRONMENT = ["${oc.env:SECRETX}", "\\${oc.env:SECRETX}", "\\\\${oc.env:SECRETX}", "$SECRETX"]


@pytest.mark.parametrize("text", ENVIRONMENT)
def test_nothing_reads_the_environment(text, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRETX", "7")
    file = tmp_path / "c.yaml"
    file.write_text(f"negative_prompt: {text}\noutput: '{text}.mp4'\n")
    config = load_config(SampleConfig, file, [f"model={text}"])
    assert (config.negative_prompt, config.output) == (text, f"{text}.mp4")
    assert config.model == text
    save_config(config, tmp_path / "config.yaml")
    assert load_config(SampleConfig, tmp_path / "config.yaml", []) == config
    for number in (text, "${oc.decode:${oc.env:SECRETX}}"):
        file.write_text(f"seed: {number}\n")
        for given in ((file, []), (None, [f"seed={number}"])):
            with pytest.raises(
                UserError, match=r"seed takes a whole number|cannot be read as YAML"
            ):
                load_config(SampleConfig, *given)


def test_text_in_a_list_stays_what_was_written(tmp_path):
    required = ["data=d", "model=m", "output=o"]
    aspects = load_config(EncodeConfig, None, [*required, "clips.aspects=[16:9]"]).clips.aspects
    assert aspects == ("16:9",)
    shown = "[16:9, 4:3, 1:1, 3:4, 9:16]"  # as `t2v encode --help` prints the default
    as_shown = load_config(EncodeConfig, None, [*required, f"clips.aspects={shown}"])
    assert as_shown.clips.aspects == EncodeConfig(data="d", model="m", output="o").clips.aspects
    (tmp_path / "c.yaml").write_text("prompts: [no, 1e5, 12:30, a red ball, null, '']\n")
    prompts = load_config(TrainDiTConfig, tmp_path / "c.yaml", REQUIRED).prompts
    assert prompts == ("no", "1e5", "12:30", "a red ball", "null", "")


def test_unquoted_text_of_a_file_stays_what_was_written(tmp_path):
    (tmp_path / "c.yaml").write_text("data: 1e5\noutput: yes\nvae: 2024-01-01\ntext: 007\n")
    loaded = load_config(TrainDiTConfig, tmp_path / "c.yaml", [])
    assert (loaded.data, loaded.output, loaded.vae) == ("1e5", "yes", "2024-01-01")
    assert loaded.text == "007"


@pytest.mark.parametrize("written", ["1e-3", "0.001", "1.0e-3", "10e-4", "'1e-3'"])
def test_a_number_is_one_however_it_is_written(written, tmp_path):
    (tmp_path / "c.yaml").write_text(f"optim: {{lr: {written}}}\nsteps: 10_000\n")
    loaded = load_config(TrainDiTConfig, tmp_path / "c.yaml", REQUIRED)
    assert (loaded.optim.lr, loaded.steps) == (1e-3, 10_000)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_that_windows_saved_reads_the_same(encoding, tmp_path):
    (tmp_path / "c.yaml").write_bytes("negative_prompt: grün\r\nseed: 3\r\n".encode(encoding))
    config = load_config(SampleConfig, tmp_path / "c.yaml", [])
    assert (config.negative_prompt, config.seed) == ("grün", 3)


def test_fixed_sinusoids_take_widths_of_whole_sixteenths():
    load_config(TrainDiTConfig, None, [*REQUIRED, "model.num_attention_heads=2"])
    odd = ["model.num_attention_heads=1", "model.attention_head_dim=24"]
    with pytest.raises(UserError, match=r"width of 24.*multiples of 16\. Nearest: 16"):
        load_config(TrainDiTConfig, None, [*REQUIRED, *odd])
    load_config(TrainDiTConfig, None, [*REQUIRED, *odd, "model.sincos_positions=false"])


@dataclass(frozen=True, kw_only=True)
class Renewed:
    """Settings of a command that has lost one and renamed another."""

    RETIRED: ClassVar[dict[str, Retired]] = {
        "make": Retired("Use `t2v world text`.", neutral=("clips", None)),
        "draws": Retired(renamed="samples"),
    }
    samples: int = 1


@pytest.mark.parametrize("text", ["make: clips", "make: null", "make: clips\ndraws: 1"])
def test_a_file_of_an_earlier_version_loads(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert load_config(Renewed, file, []) == Renewed()


def test_a_renamed_setting_takes_its_value_from_files_and_words(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("draws: 3")
    assert load_config(Renewed, file, []).samples == 3
    assert load_config(Renewed, file, ["draws=4"]).samples == 4
    assert load_config(Renewed, None, [], {"draws": 5}).samples == 5


@pytest.mark.parametrize(("text", "words"), [("make: text", []), ("", ["make=text"])])
def test_what_a_command_does_no_more_names_the_one_that_does(tmp_path, text, words):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"no longer a setting .* Use `t2v world text`"):
        load_config(Renewed, file, words)


@pytest.mark.parametrize("given", ["clips.fps=-1", "discriminator.lr=0", "optim.lr=-1"])
def test_a_message_on_a_setting_of_a_group_names_the_group(given):
    with pytest.raises(UserError, match=f"^{given.partition('=')[0]}="):
        load_config(TrainVAEConfig, None, ["output=run", "data=clips", given])
