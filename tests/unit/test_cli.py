"""The command line: help, exit codes, options and what they become."""

import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors import SafetensorError

from t2v.cli import EXTRAS, main
from t2v.cli.commands import COMMANDS
from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.config.schema import settings
from t2v.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def heard(monkeypatch):
    """`t2v sample` that only notes the settings and prompts it was given."""
    calls = []

    def note(args, overrides):
        calls.append((load_config(SampleConfig, args.config, overrides), args.prompts))

    monkeypatch.setattr("t2v.cli.sample.sample", note)
    return calls


def sample_that_raises(monkeypatch, error):
    def fail(args, overrides):
        raise error

    monkeypatch.setattr("t2v.cli.sample.sample", fail)


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_lists_every_setting(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(setting in shown for setting in settings(COMMANDS[name].schema))


def test_help_and_what_is_wrong_with_the_words_import_no_torch():
    lines = [["--help"], ["train", "--help"], ["sample", "--help"], ["sample"], ["sample", " "]]
    lines += [["sample", "x", f"{name}=/nowhere/no.png"] for name in ("model", "image", "mask")]
    lines += [["sample", each, "nowhere"] for each in ("--recipe", "--resume")]
    lines += [["sample", "x", "--interactive"], ["sample", "x", "height=tall"]]
    code = (
        f"import sys; from t2v.cli import main; print(*map(main, {lines}));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1].split() == ["0"] * 3 + ["2"] * 9


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["smaple"], "Did you mean `t2v sample`?"),
        (["xyz"], "Allowed: sample"),
        (["train", "ouptut=x"], "Did you mean output?"),
        (["train", "steps=ten"], "takes a whole number"),
        (["train"], "output, data, vae, text: required"),
        (["train", "--config", "nowhere.yaml"], "no such file"),
        (["convert", "a"], "dst: required"),
        (["convert", "a", "b", "c"], "'c' is not a setting"),
        (["sample", "a dog", "--sead", "1"], "Did you mean --seed?"),
        (["sample", "a dog", "--seed"], "expected one argument"),
        (
            ["sample", "a dog", "--height", "tall"],
            "height=tall: height takes a whole number or null",
        ),
        (["sample", "--prompt-file", "nowhere.txt"], "nowhere.txt"),
        (["sample", "a dog", "--resume", "x"], "without prompts"),
        (["sample", "--recipe", "x", "--resume", "x"], "one of them"),
        (["sample", "a dog", "--seed", "-1"], "seed=-1: it must be from 0"),
        (["sample", "a dog", "--num-videos", "0"], "num_videos_per_prompt=0: it must be at least"),
        (["sample", "--recipe", "x", "workers=2"], "workers=2: goes with prompts"),
        (["sample", "a dog", "--grid", "--engine", "ray"], "engine=ray: goes with prompts"),
        (["world", "output=x", "workers=0"], "workers=0: it must be at least 1"),
        (["world", "output=x", "make=text"], "`t2v world text` trains the text encoder"),
        (
            ["world", "output=x", "steps=9"],
            "steps is no longer a setting of this command.",
        ),
        (["world", "text", "output=x", "width=9"], "It goes with `t2v world`."),
        (["world", "oracle", "output=x"], "data: required and not given"),
        (["eval", "x", "output=y", "oracle=z", "count=0"], "count=0"),
        (["train-vae", "output=x", "data=y", "save_every=0"], "save_every=0"),
        (["world", "output=/dev/null/x"], "Not a directory"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(argv, words, capsys):
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.startswith("t2v: ") and "Traceback" not in message


def test_a_bug_shows_its_traceback_and_exits_with_1(monkeypatch, capsys):
    sample_that_raises(monkeypatch, ZeroDivisionError("by design"))
    assert main(["sample", "a dog"]) == 1
    assert "ZeroDivisionError: by design" in capsys.readouterr().err


def test_a_full_disk_is_the_users_to_mend_whoever_tells_of_it(monkeypatch, capsys):
    for error in (
        OSError(errno.ENOSPC, "No space left on device", "x.mp4"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ):
        sample_that_raises(monkeypatch, error)
        assert main(["sample", "a dog"]) == 2
        message = capsys.readouterr().err
        assert "No space left on device" in message and "Make room" in message
        assert "Traceback" not in message


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_bug(monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "t2v", "sample", "--help"]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_that_breaks_elsewhere_is_a_bug(monkeypatch, capsys):
    sample_that_raises(monkeypatch, BrokenPipeError("a worker died"))
    assert main(["sample", "a dog"]) == 1
    assert "a worker died" in capsys.readouterr().err


def test_an_interrupt_says_what_was_kept_and_exits_with_130(monkeypatch, capsys):
    sample_that_raises(monkeypatch, KeyboardInterrupt("Kept x; go on with y."))
    assert main(["sample", "a dog"]) == 130
    assert "interrupted. Kept x; go on with y." in capsys.readouterr().err


def test_a_user_error_exits_with_2(monkeypatch, capsys):
    sample_that_raises(monkeypatch, UserError("no such colour; red is allowed"))
    assert main(["sample", "a dog"]) == 2
    assert capsys.readouterr().err == "t2v: no such colour; red is allowed\n"


def test_options_and_settings_mix_with_prompts_in_any_order(heard):
    main(["sample", "a dog", "--frames", "9", "seed=4", "a cat", "--sheet", "-o", "x.mp4",
          "--guidance", "2", "--negative-prompt", "yes"])  # fmt: skip
    ((config, prompts),) = heard
    assert prompts == ["a dog", "a cat"]
    assert config == SampleConfig(
        num_frames=9, seed=4, sheet=True, output="x.mp4", guidance_scale=2.0, negative_prompt="yes"
    )


def test_a_prompt_that_holds_an_equals_sign_is_still_a_prompt(heard):
    main(["sample", "a board with 1 + 1 = 2"])
    assert heard[0][1] == ["a board with 1 + 1 = 2"]


def test_after_two_dashes_everything_is_a_prompt(heard):
    assert main(["sample", "--steps", "1", "a dog", "--", "E=mc2 on a board", "--seed", "x=1"]) == 0
    ((config, prompts),) = heard
    assert prompts == ["a dog", "E=mc2 on a board", "--seed", "x=1"]
    assert config == SampleConfig(num_inference_steps=1)


def test_a_prompt_that_looks_like_a_setting_is_told_how_to_be_one(capsys):
    for prompt in ("E=mc2 on a blackboard", "seed=4 in the wild"):
        assert main(["sample", prompt]) == 2
        assert "A prompt with `=` in it goes after --" in capsys.readouterr().err


def test_a_plan_takes_the_settings_of_the_command_it_plans(capsys):
    size = ["height=32", "width=32", "num_frames=5"]
    assert main(["plan", "sample", "seed=3", "device=cpu", "guidance_scale=1", *size]) == 0
    assert "5 frames" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_a_package_of_an_extra_that_is_missing_is_named_with_the_extra(
    module, extra, monkeypatch, capsys
):
    def fail(argv):
        raise ModuleNotFoundError(f"No module named '{module}.part'", name=f"{module}.part")

    monkeypatch.setattr("t2v.cli._dispatch", fail)
    assert main(["sample", "a"]) == 2
    shown = capsys.readouterr().err
    assert f"needs {module}, which is not installed" in shown
    assert f'"t2v[{extra}]"' in shown and "Traceback" not in shown
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in extras["optional-dependencies"]


def test_another_module_that_is_missing_is_a_bug(monkeypatch, capsys):
    def fail(argv):
        raise ModuleNotFoundError("No module named 't2v.gone'", name="t2v.gone")

    monkeypatch.setattr("t2v.cli._dispatch", fail)
    assert main(["sample", "a"]) == 1
    assert "this is a bug" in capsys.readouterr().err
