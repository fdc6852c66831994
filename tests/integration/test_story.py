"""`t2v sample --story`: one film of scenes, killed at any instant and gone on with."""

import json
import multiprocessing
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from t2v.cli import main
from t2v.io.video import read_recipe, read_video

KILLS = 10
SCENES = [
    {"prompt": "a red ball rolls", "seconds": 1.5},
    {"prompt": "the blue box bounces", "seconds": 1.5},
    {"prompt": "a red ball on snow", "seconds": 1},
]


@pytest.fixture
def model(request, tmp_path, tmp_path_factory, monkeypatch) -> Path:
    """A folder of the tiny pipeline, that takes known frames; a copy of one for all tests."""
    monkeypatch.chdir(tmp_path)
    first = tmp_path_factory.getbasetemp() / "tells-stories"
    if not first.exists():
        pipe = request.getfixturevalue("pipe")
        pipe.transformer.take_known(picture_tokens=True)
        torch.nn.init.normal_(pipe.transformer.picture_embedding)
        pipe.save_pretrained(first)
    return shutil.copytree(first, tmp_path / "model")


def written(scenes=SCENES, name="story.yaml", **more) -> str:
    windows = {"overlap": 1}  # of windows of 9 frames
    Path(name).write_text(yaml.safe_dump({"scenes": scenes, "windows": windows, **more}))
    return name


def command(*options: str) -> list[str]:
    return ["sample", "--model", "model", "--device", "cpu", *options]


def tell(*options: str) -> int:
    return main(command("--story", *options))


def windows(folder="story.windows") -> dict[str, int]:
    """The time at which each kept window was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.safetensors")}


def test_a_story_is_one_film_of_exact_length_with_its_scenes_in_the_recipe(model, capsys):
    assert tell(written()) == 0
    film = Path(capsys.readouterr().out.strip())
    assert film == Path("story.mp4").resolve()
    frames, rate = read_video(film)
    assert frames.shape == (32, 32, 48, 3) and rate == 8
    recipe = read_recipe(film)
    assert recipe == json.loads(film.with_suffix(".json").read_text())
    assert [scene["prompt"] for scene in recipe["story"]["scenes"]] == [s["prompt"] for s in SCENES]
    assert main(["sample", "--recipe", "story.mp4"]) == 0
    assert Path("story-again.mp4").read_bytes()[-2000:] == film.read_bytes()[-2000:]
    assert (read_video(Path("story-again.mp4"))[0] == frames).all()


def test_another_prompt_makes_the_windows_from_its_scene_on_again(model, capsys):
    assert tell(written()) == 0
    written_at = Path("story.mp4").stat().st_mtime_ns
    assert tell(written()) == 0  # the same film is there
    assert Path("story.mp4").stat().st_mtime_ns == written_at
    assert "story.mp4 exists already" in capsys.readouterr().err
    before, film = windows(), read_video(Path("story.mp4"))[0]
    other = [SCENES[0], {**SCENES[1], "prompt": "a red box"}, SCENES[2]]
    assert tell(written(other)) == 2  # another film lies there
    assert tell(written(other), "--overwrite") == 0
    after, changed = windows(), read_video(Path("story.mp4"))[0]
    assert len(before) == 7 and len(after) == 7
    assert len(before.keys() & after.keys()) == 2
    assert all(before[name] == after[name] for name in before.keys() & after.keys())
    assert abs(changed[:8].astype(int) - film[:8]).max() <= 2  # frames are equal, x264 looks ahead
    assert abs(changed[12:].astype(int) - film[12:]).max() > 20


def test_signs_in_a_story_are_read_and_its_recipe_has_the_alternative_that_was_picked(model):
    def told(prompt, *options, signs=True) -> np.ndarray:
        story = written([{"prompt": prompt, "seconds": 1}, {"prompt": prompt, "seconds": 1}])
        flags = ["--prompt-syntax"] if signs else []
        assert tell(story, "-o", "film.mp4", "--overwrite", *flags, *options) == 0
        return read_video(Path("film.mp4"))[0]

    plain, other = told("a red ball", signs=False), told("a blue box", signs=False)
    assert (told("(a red ball:1)") == plain).all()
    assert (told("a red ball @1 a blue box") == other).all()
    for prompt in ("a (red:3) ball", "a red ball AND a blue box", "a red ball @0.5 a blue box"):
        shown = told(prompt, "guidance_scale=4", "negative_prompt=(red:2) box")
        assert not (shown == plain).all() and not (shown == other).all()
    shown = told("{a red ball|a blue box|a red box}")
    scenes = read_recipe(Path("film.mp4"))["story"]["scenes"]
    picked = {scene["prompt"] for scene in scenes}
    assert len(picked) == 1 and picked <= {"a red ball", "a blue box", "a red box"}
    assert main(["sample", "--recipe", "film.mp4"]) == 0
    assert (read_video(Path("film-again.mp4"))[0] == shown).all()


def test_scenes_behind_a_cut_stay_as_they_are(model):
    cut = [*SCENES[:2], {**SCENES[2], "start": "cut"}]
    assert tell(written(cut)) == 0
    before = windows()
    assert tell(written([{**cut[0], "prompt": "a red box"}, *cut[1:]]), "--overwrite") == 0
    assert len(before.keys() & windows().keys()) == 1


def test_a_scene_begins_with_its_picture_which_must_stay_what_it_was(model, capsys):
    Path("told").mkdir()
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save("told/x.png")
    told = written([SCENES[0], {**SCENES[1], "image": "x.png"}], "told/story.yaml")
    assert tell(told, "--sheet") == 0
    recipe = read_recipe(Path("story.mp4"))
    assert list(recipe["pictures"]) == [str(Path("told/x.png").resolve())]
    assert Path("story.sheet.png").exists()
    Image.fromarray(np.full((64, 64, 3), 100, np.uint8)).save("told/x.png")
    assert main(["sample", "--recipe", "story.mp4"]) == 2
    assert "not what the recipe was made with" in capsys.readouterr().err
    assert not Path("story-again.mp4").exists()


def work(options):
    torch.set_num_threads(1)
    raise SystemExit(main(options))


def killed_after(options, folder, count, seconds) -> bool:
    """Run in a process that is killed so many seconds after as many windows: did it end before?"""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["t2v.sampling.story", "t2v.models.transformer"])
    process = context.Process(target=work, args=(options,))
    process.start()
    while process.is_alive() and len(windows(folder)) < count:
        time.sleep(0.01)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


def check_kills(instants: int) -> None:
    """Kill a story at random instants, each time somewhere in its next two windows."""
    chance, kills, film = random.Random(0), 0, 0
    story = written()
    assert tell(story, "-o", "whole.mp4") == 0
    while kills < instants:
        film += 1
        options, folder = command("--story", story, "-o", f"{film}.mp4"), f"{film}.windows"
        goal = 0
        while True:
            goal += chance.randint(1, 2)
            stopped = goal if kills < instants else 1000
            if killed_after(options, folder, stopped, chance.uniform(0, 0.5)):
                break
            kills += 1
        whole, made = (read_video(Path(name))[0] for name in ("whole.mp4", f"{film}.mp4"))
        assert (whole == made).all()
        assert windows("whole.windows").keys() == windows(folder).keys()
        for name in windows(folder):
            both = [Path(each, name).read_bytes() for each in ("whole.windows", folder)]
            assert both[0] == both[1]


def test_a_killed_story_goes_on_to_the_same_film(model):
    check_kills(1)


@pytest.mark.slow
def test_a_story_killed_at_random_instants_is_the_same_film(model):
    check_kills(KILLS)


@pytest.mark.parametrize(
    ("story", "options", "message"),
    [
        ({"scenes": []}, [], "scenes: there is none"),
        ({"scenes": [{"prompt": " ", "seconds": 1}]}, [], "prompt: it is empty"),
        ({"scenes": [{"prompt": "a", "seconds": 0}]}, [], "seconds=0.0: a scene lasts more than 0"),
        ({"scenes": [{"prompt": "a", "seconds": 1, "start": "continue"}]}, [], "nothing to go on"),
        (
            {"scenes": [{"prompt": "a", "seconds": 1, "start": "continue", "image": "x.png"}] * 2},
            [],
            "image=x.png and start=continue",
        ),
        ({"scenes": [{"prompt": "a", "seconds": 1, "image": "x.png"}]}, [], "cannot be read"),
        ({"scenes": [SCENES[0], {"prompt": "a"}]}, [], "scene 2 of story.yaml: seconds required"),
        (
            {"scenes": [SCENES[0], {"prompt": "a", "seconds": 1, "image": "story.yaml"}]},
            [],
            "scene 2: ",
        ),
        ({"scenes": SCENES}, ["num_frames=9"], "num_frames with --story"),
        ({"scenes": SCENES}, ["a red ball"], "and 'a red ball': a story brings its own prompts"),
        (
            {"scenes": [SCENES[0], {"prompt": "[0-1s] a [1-2s] b", "seconds": 2}]},
            ["--prompt-syntax"],
            "scene 2: prompt '[0-1s] a [1-2s] b' has times",
        ),
        (
            {"scenes": [SCENES[0], {"prompt": "a (red:9) ball", "seconds": 2}]},
            ["--prompt-syntax"],
            "scene 2: prompt",
        ),
        ({"scenes": SCENES}, ["prompting.rewrite=model:X"], "prompting.rewrite or prompting.temp"),
        ({"scenes": SCENES, "windows": {"overlap": 2}}, [], "Give frames of at least 13"),
        ({"scenes": SCENES, "windows": {"lag": 1, "strength": 0.5}}, [], "lag=1 strength=0.5"),
        ({"scenes": SCENES, "window": {"lag": 1}}, [], "there is no setting"),
    ],
    ids=str,
)
def test_an_error_is_one_message(model, capsys, story, options, message):
    Path("story.yaml").write_text(yaml.safe_dump(story))
    assert main([*command("--story", "story.yaml"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said, said
    assert not list(Path().glob("*.mp4"))
