"""Hostile settings, config files, recipes and manifests: a value, or one message; never a bug."""

import json
import os
import random
import time
from dataclasses import MISSING
from pathlib import Path

import pytest

from t2v.cli import main
from t2v.cli.commands import COMMANDS
from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.config.schema import settings, type_words
from t2v.errors import UserError
from t2v.io.manifest import read_manifest
from t2v.sampling.recipe import Recipe, read, read_json
from t2v.sampling.versions import versions

LONGEST = 3000  # characters of a message
NUMBERS = [
    *("nan", ".nan", "NaN", "inf", "-inf", ".inf", "-.inf", "1e30", "-1e30", "1e400", "1e-400"),
    *("9" * 20, "-" + "9" * 20, "9" * 400, "9" * 5000, str(2**63), str(2**64), "-1", "0", "0.5"),
    *("16:9", "1_000", "0x10", "0o17", "1e5", "true", "no", "null", "~", ""),
]
TEXTS = [
    *("${oc.env:HOME}", "${", "\\${x}", "%s", "{}", "[", "]", "{a: 1}", "[1, [2, [3]]]", "&a [*a]"),
    *("!!python/object/apply:os.system [ls]", "- 1", "a: b", "a\nb: c", "x" * 5000, "'", '"'),
    *("[" * 3000, "{a: " * 3000, "\ud800", "\x00", "\x07", "..", "/", "/dev/zero", "é" * 300, "<<"),
]
VALUES = NUMBERS + TEXTS
SCHEMAS = {name: command.schema for name, command in COMMANDS.items()}


def required(schema: type) -> list[str]:
    named = {"repo": "owner/name"}
    return [
        f"{name}={'[x,y]' if type_words(hint).startswith('[') else named.get(name, 'sample')}"
        for name, (hint, default) in settings(schema).items()
        if default is MISSING
    ]


def answer(call, *args):
    """What a call gives, or the message of its `UserError`, which is not too long."""
    try:
        return call(*args)
    except UserError as error:
        assert 0 < len(str(error)) < LONGEST, str(error)[:200]
        return None


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_setting_takes_any_value_or_says_why_not(name):
    schema, started = SCHEMAS[name], time.monotonic()
    given = required(schema)
    assert load_config(schema, None, given)
    draw = random.Random(name)
    for setting in settings(schema):
        for value in draw.sample(VALUES, 2):
            answer(load_config, schema, None, [*given, f"{setting}={value}"])
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_number_is_taken_that_is_not_finite_or_far_too_large(name):
    schema = SCHEMAS[name]
    given, draw = required(schema), random.Random(name)
    for setting, (hint, _) in settings(schema).items():
        words = type_words(hint)
        if "int" not in words and "float" not in words:
            continue
        for value in draw.sample((".nan", "nan", "inf", "-.inf", "1e30", "-1e30", "9" * 20), 2):
            count = words.count(",") + 1
            shown = f"[{', '.join([value] * count)}]" if words.startswith("[") else value
            with pytest.raises(UserError) as error:
                load_config(schema, None, [*given, f"{setting}={shown}"])
            shown = (setting.rpartition(".")[2], "clips.*")
            assert any(each in str(error.value) for each in shown)
            assert len(str(error.value)) < 500


def test_config_files_of_any_kind_give_settings_or_one_message(tmp_path):
    draw, file = random.Random(0), tmp_path / "c.yaml"
    names = [*settings(SampleConfig), "optim.lr", "x", "<<", "*", "&a x"]
    for _ in range(200):
        lines = [
            f"{draw.choice(names)}: {draw.choice(VALUES)[:200]}" for _ in range(draw.randint(1, 3))
        ]
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        if draw.random() < 0.3:  # a byte exchanged
            place = draw.randrange(len(text))
            text = text[:place] + bytes([draw.randrange(256)]) + text[place + 1 :]
        file.write_bytes(text)
        answer(load_config, SampleConfig, file, [])


RECIPE = Recipe(
    prompt="a red ball",
    settings=SampleConfig(height=64, width=64, num_frames=9, fps=8.0),
    weights="0" * 64,
    device="cpu",
    versions=versions(),
).to_json() | {
    "choice": {
        "best_of": 3,
        "first_seed": 4,
        "scorer": "s",
        "name": "n",
        "keep_draws": False,
        "scores": {"4": 0.5},
    }
}
THINGS = [
    *(None, True, 0, -1, 5, 1.5, 10**20, 10**400, 1e300, float("inf"), "", "x", "\x00", "\ud800"),
    *([], ["a"], [[[]]], {}, {"a": 1}, {"4": "x"}, {"4": 1e300}, "9" * 5000, "${oc.env:HOME}"),
]


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))


def exchanged(value, path, thing):
    if not path:
        return thing
    return value | {path[0]: exchanged(value[path[0]], path[1:], thing)}


def test_a_recipe_of_any_types_is_read_or_refused_in_one_message(tmp_path):
    assert read(RECIPE, Path("r.json")).choice.left == [5, 6]
    draw = random.Random(0)
    for path in places(RECIPE):
        for thing in draw.sample(THINGS, 12):
            recipe = answer(read, exchanged(RECIPE, path, thing), Path("r.json"))
            if recipe is None:
                continue
            assert isinstance(recipe.prompt, str) and recipe.prompt.encode()
            assert all(isinstance(each, str) for each in recipe.versions.values())
            assert recipe.choice is None or all(
                isinstance(seed, int) for seed in (*recipe.choice.left, recipe.choice.best_of)
            )
            json.dumps(recipe.to_json(), allow_nan=False)


NOT_JSON = [b"", b"[" * 100_000, b'{"a":' * 3000, b"9" * 5000, b"NaN", b"\xff\xfe\x00", b"\0" * 9]


def test_a_recipe_that_is_no_json_is_one_message(tmp_path):
    file = tmp_path / "r.json"
    for content in NOT_JSON:
        file.write_bytes(content)
        with pytest.raises(UserError) as error:
            read(read_json(file), file)
        assert "r.json: " in str(error.value) and len(str(error.value)) < LONGEST


def test_a_manifest_of_any_types_is_read_or_refused_in_one_message(tmp_path):
    file = tmp_path / "manifest.jsonl"
    row = {"path": "a.mp4", "start": 0.0, "end": 2.0, "fps": 8, "width": 64, "height": 64}
    row |= {"num_frames": 16, "caption": "x", "captions": ["x"], "scores": {"a": 1}, "tags": []}
    for path in places(row):
        for thing in THINGS:
            changed = json.dumps(exchanged(row, path, thing))
            file.write_text(changed + "\n")
            clips = answer(read_manifest, file)
            assert clips is None or "\x00" not in clips[0].path
    for content in NOT_JSON[1:-1]:
        file.write_bytes(content)
        with pytest.raises(UserError):
            read_manifest(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_manifest_and_captions_that_windows_saved_read_the_same(encoding, tmp_path):
    (tmp_path / "m.jsonl").write_bytes('{"path": "a.mp4", "caption": "grün"}\r\n'.encode(encoding))
    assert read_manifest(tmp_path / "m.jsonl")[0].caption == "grün"
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.mp4").touch()
    (tmp_path / "media/a.txt").write_bytes("ein grüner Ball\r\nzwei\r\n".encode(encoding))
    assert read_manifest(tmp_path / "media")[0].captions == ("ein grüner Ball", "zwei")


@pytest.mark.parametrize(
    "argv",
    [
        ["sample", "--prompt-file", "PIPE"],
        ["sample", "--prompt-file", "/dev/zero"],
        ["sample", "x", "--config", "PIPE"],
        ["sample", "x", "--config", "/dev/zero"],
        ["sample", "--recipe", "PIPE.json"],
        ["sample", "--recipe", "PIPE"],
        ["sample", "--resume", "PIPE"],
        ["sample", "x", "lora=PIPE"],
        ["sample", "x", "model=PIPE"],
        ["sample", "x", "model=FOLDER"],
        ["sample", "x", "device=foo"],
        ["sample", "x", "device=cuda:99"],
        ["sample", "x", "device=meta"],
        ["sample", "x", "negative_prompt=" + "a=b " * 5000, "colour=" + "b" * 50_000],
    ],
    ids=lambda argv: " ".join(argv)[:40],
)
def test_pipes_devices_and_long_words_end_in_one_message(argv, tmp_path, capsys, monkeypatch):
    for name in ("PIPE", "PIPE.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "FOLDER/vae").mkdir(parents=True)
    (tmp_path / "FOLDER/model_index.json").write_text('{"_class_name": "T2VPipeline", "vae": 1}')
    os.mkfifo(tmp_path / "FOLDER/vae/model.safetensors")
    words = ("PIPE", "FOLDER")
    argv = [
        each.replace(word, str(tmp_path / word))
        for each in argv
        for word in [next((word for word in words if word in each), "PIPE")]
    ]
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("t2v: ") and len(message) < LONGEST and "Traceback" not in message
