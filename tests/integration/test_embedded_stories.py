"""Stories of the embedded model: seams, drift, scenes that change as asked, memory.

`STORIES=64 pytest -n 0 -m slow --log-cli-level=INFO tests/integration/test_embedded_stories.py`
shows the figures.
"""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from einops import rearrange

from t2v.config.story import WindowsConfig
from t2v.evaluation.metrics.stories import (
    StoryScene,
    colour_drift,
    flicker,
    identity_kept,
    scene_answers,
    sharpness_drift,
    switches,
)
from t2v.models.folder import model_folder
from t2v.pipelines.generator import Request, to_uint8
from t2v.pipelines.story import Film, LatentWindows
from t2v.pipelines.story import Scene as Told
from t2v.pipelines.t2v import T2VPipeline
from t2v.world.grammar import (
    BACKGROUNDS,
    COLOURS,
    UNSPUN,
    Scene,
    caption,
    pick,
    random_scene,
)
from t2v.world.oracle import WorldOracle

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("STORIES", "16"))
MODEL = os.environ.get("STORIES_MODEL", "t2v-tiny")
FRAMES, SCENES, MINUTE = 32, 5, 480  # of a scene, a story and 60 s at 8 fps
ENDLESS = ("still", "bounce", "spin")  # motions that go on for as long as a scene lasts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipe() -> T2VPipeline:
    pipe = T2VPipeline.from_pretrained(model_folder(MODEL))
    if pipe.transformer.config.conditioning == "none":
        pytest.skip(f"{MODEL} takes text alone")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_story(seed: int) -> tuple[list[Scene], list[str]]:
    """Scenes of one thing and their captions; motion, colour or place changes in each."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    while True:
        scene = random_scene(generator)
        if scene.camera == "still" and len(scene.things) == 1 and scene.things[0].motion in ENDLESS:
            break
    scenes = [scene]
    while len(scenes) < SCENES:
        scenes.append(changed(scenes[-1], generator))
    return scenes, [caption(each, generator) for each in scenes]


def changed(scene: Scene, generator: torch.Generator) -> Scene:
    (thing,) = scene.things
    kind = pick(("motion", "colour", "background"), generator)
    if kind == "background":
        others = [each for each in BACKGROUNDS if each != scene.background]
        return replace(scene, background=pick(others, generator))
    if kind == "colour":
        colour = pick([each for each in COLOURS if each != thing.colour], generator)
        return replace(scene, things=(replace(thing, colour=colour),))
    possible = [
        each
        for each in ENDLESS
        if each != thing.motion and not (each == "spin" and thing.shape in UNSPUN)
    ]
    return replace(scene, things=(replace(thing, motion=pick(possible, generator)),))


def told(pipe, scenes: list[Told], seed: int, config: WindowsConfig) -> tuple[torch.Tensor, list]:
    """The film, `t h w c` uint8, and its windows."""
    saved = pipe.config
    request = Request(
        height=saved.height,
        width=saved.width,
        num_frames=config.frames or saved.num_frames,
        fps=saved.fps,
        num_inference_steps=saved.num_inference_steps,
        guidance_scale=saved.guidance_scale,
    )
    maker, film, parts = LatentWindows(pipe, request, config), Film(), []
    plan = maker.plan(scenes)
    for window in plan:
        latents = maker.make(scenes[window.scene], window, film, seed)
        parts.append(
            to_uint8(rearrange(maker.show(window, film, latents), "t c h w -> t h w c").numpy())
        )
    return torch.cat([torch.from_numpy(part) for part in parts]), plan


def measured(pipe, config: WindowsConfig) -> dict[str, float]:
    oracle = WorldOracle.from_pretrained(ROOT / "assets" / "world-oracle").eval()
    inside, across, switched, kept, blinks, colour, sharp = [], [], [], [], [], [], []
    for seed in range(COUNT):
        scenes, prompts = random_story(seed)
        film, plan = told(pipe, [Told(each, FRAMES) for each in prompts], seed, config)
        assert len(film) == FRAMES * SCENES
        steps = (film[1:].float() - film[:-1].float()).abs().mean((1, 2, 3))
        edges = {each.first - 1 for each in plan if each.first and each.number}
        cuts = {each.first - 1 for each in plan if each.first and not each.number}
        across += steps[sorted(edges)].tolist()
        inside += steps[sorted(set(range(len(steps))) - edges - cuts)].tolist()
        parts = [
            StoryScene(FRAMES * i, FRAMES * (i + 1), each.truth()) for i, each in enumerate(scenes)
        ]
        read = scene_answers(oracle, film, parts)
        switched += switches(parts, read)
        kept += identity_kept(parts, read)
        blinks += flicker(film[None]).tolist()
    for seed in range(max(2, COUNT // 8)):
        prompt = random_story(seed)[1][0]
        film, _ = told(pipe, [Told(prompt, MINUTE)], seed, config)
        colour.append(colour_drift(film[None], FRAMES)[0, 1:].max().item())
        sharp.append(sharpness_drift(film[None], FRAMES)[0, 1:].abs().max().item())

    def mean(values: list) -> float:
        return sum(values) / len(values)

    found = {
        "seam": mean(across) / mean(inside),
        "switch": mean(switched),
        "identity": mean(kept),
        "flicker": mean(blinks),
        "colour drift %": mean(colour),
        "sharpness drift %": mean(sharp),
    }
    logger.info("%s", json.dumps({"windows": str(config), "stories": COUNT, **found}))
    return found


def test_stories_have_no_seams_do_not_drift_and_change_as_asked(pipe):
    found = measured(pipe, WindowsConfig())
    assert found["seam"] <= 1.2
    assert found["switch"] >= 0.9
    assert found["colour drift %"] <= 5 and found["sharpness drift %"] <= 5


@pytest.mark.parametrize(
    "option",
    [
        {"overlap": 0},
        {"overlap": 1},
        {"known": "frames"},
        {"frames": 33},
        {"strength": 0.9},
        {"noise": "inverted"},
        {"lag": 1},
        {"anchor": True},
    ],
    ids=str,
)
def test_every_way_to_join_windows_is_measured(pipe, option):
    found = measured(pipe, WindowsConfig(**option))
    assert all(value == value for value in found.values())


def test_a_minute_takes_the_memory_of_seconds(pipe, tmp_path):
    peaks = []
    for seconds in (4, 60):
        story = tmp_path / f"{seconds}.yaml"
        scene = {"prompt": "a red ball bounces on grass", "seconds": seconds}
        story.write_text(yaml.safe_dump({"scenes": [scene]}))
        words = ["sample", "--story", story.name, "--model", str(model_folder(MODEL))]
        words += ["--steps", "2"]  # of which memory does not depend
        code = (
            "import resource, sys; from t2v.cli import main; code = main(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    logger.info("peak of 4 s and of 60 s: %s KiB", peaks)
    assert peaks[1] <= 1.1 * peaks[0]
