"""Stories of the embedded model: seams, drift, scenes that change as asked, memory.

`STORIES=64 pytest -n 0 -m slow tests/integration/test_embedded_stories.py` takes under 20 minutes
of one core and prints the figures with their 95 % intervals. Ways to join windows are compared by
`t2v eval suites=[story]`, see docs/stories.md.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from einops import rearrange

from t2v.config.evaluation import EvalConfig
from t2v.data.rng import keyed_generator
from t2v.evaluation.intervals import summary
from t2v.evaluation.metrics.stories import colour_drift, measure, sharpness_drift
from t2v.evaluation.rows import CEILING, MODEL, REAL
from t2v.evaluation.samples import load_model, request_of
from t2v.evaluation.stories import make_story
from t2v.evaluation.suites import Suite
from t2v.evaluation.types import PerVideo
from t2v.models.folder import model_folder
from t2v.pipelines.generator import Generator, to_uint8
from t2v.pipelines.story import LatentWindows, tell
from t2v.pipelines.story import Scene as Told
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
from t2v.world.story import Story

ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("STORIES", "16"))
MODEL_NAME = os.environ.get("STORIES_MODEL", "t2v-tiny")
STARTS, FRAMES = (0, 33, 65, 97, 129), 161  # five scenes, 20 s at 8 fps
MINUTE, SPAN = 480, 32  # frames of 60 s, and of what is compared of them
ENDLESS = ("still", "bounce", "spin")  # motions that go on for as long as a scene lasts

Say = Callable[[str], None]

pytestmark = pytest.mark.slow


@pytest.fixture
def say(capsys) -> Say:
    """Shows a line, whatever pytest captures."""

    def said(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    return said


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EvalConfig:
    folder = str(tmp_path_factory.mktemp("stories"))
    return EvalConfig(model=MODEL_NAME, output=folder, suites=("story",), perceptual=None)


@pytest.fixture(scope="module")
def generator(config) -> Generator:
    generator = load_model(config, "t2v eval")
    if generator.pipeline.transformer.config.conditioning == "none":
        pytest.skip(f"{MODEL_NAME} takes text alone")
    generator.pipeline.set_progress_bar_config(disable=True)
    return generator


def random_story(seed: int) -> tuple[Story, tuple[str, ...]]:
    """Scenes of one thing and their captions; motion, colour or place changes in each."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    while True:
        scene = random_scene(generator)
        if scene.camera == "still" and len(scene.things) == 1 and scene.things[0].motion in ENDLESS:
            break
    scenes = [scene]
    while len(scenes) < len(STARTS):
        scenes.append(changed(scenes[-1], generator))
    prompts = tuple(caption(each, generator) for each in scenes)
    return Story(scenes=tuple(scenes), starts=STARTS), prompts


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


def shown(values: torch.Tensor, is_part: bool = False) -> str:
    found = summary(values, keyed_generator(0, "stories"), is_part=is_part)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_stories_have_no_seams_and_change_as_asked(generator, config, say):
    stories, prompts = zip(*(random_story(seed) for seed in range(COUNT)), strict=True)
    suite = Suite(
        "story",
        tuple("; ".join(each) for each in prompts),
        ("",) * COUNT,
        stories,
        scene_prompts=prompts,
        story_frames=FRAMES,
    )
    made = make_story(suite, generator, config, [])
    assert made.rows[MODEL].video.shape[1] == FRAMES
    oracle = WorldOracle.from_pretrained(ROOT / "assets" / "world-oracle").eval()
    found = {}
    for row in (MODEL, CEILING, REAL):
        measured = measure(made.rows[row], oracle)
        figures = {n: each for n, each in measured.items() if isinstance(each, PerVideo)}
        words = (f"{name} {shown(each.values, each.is_part)}" for name, each in figures.items())
        say(f"{COUNT} stories of 20 s, {row}: {', '.join(words)}")
        found[row] = {name: each.values.nanmean().item() for name, each in figures.items()}
    # a VAE steps from latent to latent, in real films too
    assert found[MODEL]["seam_over_vae"] <= 1.2
    assert found[MODEL]["switch"] >= 0.9


def test_a_minute_does_not_drift(generator, config, say):
    colours, sharpnesses = [], []
    for seed in range(max(2, COUNT // 16)):
        maker = LatentWindows(generator.pipeline, request_of(generator, config), config.windows)
        parts = tell(maker, [Told(random_story(seed)[1][0], MINUTE)], seed)
        film = rearrange(torch.cat(list(parts)), "t c h w -> 1 t h w c").numpy()
        video = torch.from_numpy(to_uint8(film))
        colours.append(colour_drift(video, SPAN)[0, 1:].max())
        sharpnesses.append(sharpness_drift(video, SPAN)[0, 1:].abs().max())
    colour, sharp = torch.stack(colours), torch.stack(sharpnesses)
    say(f"{len(colour)} films of 60 s: most colour drift {shown(colour)} %, of sharpness "
        f"{shown(sharp)} %")  # fmt: skip
    assert colour.mean() <= 5 and sharp.mean() <= 5


def test_a_minute_takes_the_memory_of_seconds(generator, tmp_path, say):
    peaks = []
    for seconds in (4, 60):
        story = tmp_path / f"{seconds}.yaml"
        scene = {"prompt": "a red ball bounces on grass", "seconds": seconds}
        story.write_text(yaml.safe_dump({"scenes": [scene]}))
        words = ["sample", "--story", story.name, "--model", str(model_folder(MODEL_NAME))]
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
    say(f"peak memory of 4 s and of 60 s: {peaks} KiB, {peaks[1] / peaks[0]:.3f} times")
    assert peaks[1] <= 1.1 * peaks[0]
