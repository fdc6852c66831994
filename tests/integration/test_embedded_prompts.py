"""Signs of prompts on the embedded model: scenes by time, weights, blends, texts that do not fit.

`PROMPTS=64 pytest -n 0 -m slow tests/integration/test_embedded_prompts.py` takes about 8 minutes of
one core and prints the figures of docs/prompts.md with their 95 % intervals.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from t2v.config.prompting import PromptingConfig
from t2v.data.rng import keyed_generator
from t2v.evaluation.intervals import summary
from t2v.evaluation.metrics.stories import StoryScene, scene_answers, switches
from t2v.models.folder import model_folder
from t2v.pipelines.generator import to_uint8
from t2v.pipelines.t2v import T2VPipeline
from t2v.world.grammar import COLOURS, SIZES, UNSPUN, Scene, caption, pick, random_scene
from t2v.world.labels import HEADS
from t2v.world.oracle import WorldOracle, load_oracle

COUNT = int(os.environ.get("PROMPTS", "8"))
SIGNS = PromptingConfig(syntax=True)
SWITCH, FRAMES = 16, 33  # the frame of the second scene: 2 s of 4
ENDLESS = ("still", "bounce", "spin")  # motions that go on for as long as a scene lasts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipe() -> T2VPipeline:
    pipeline = T2VPipeline.from_pretrained(str(model_folder("t2v-tiny")))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def oracle() -> WorldOracle:
    return load_oracle(str(Path(__file__).parents[2] / "assets/world-oracle"))


@pytest.fixture
def say(capsys) -> Callable[[str], None]:
    """Shows a line, whatever pytest captures."""

    def said(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    return said


def film(pipe: T2VPipeline, prompt: str, seed: int, config: PromptingConfig | None, **rest):
    """Frames of one video, `t h w c` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, prompting=config, upscale=1, **rest).frames[0]


def of_one_thing(count: int, motions=None, sizes=None):
    """Yield scenes of one thing before a still camera, and the generator of their captions."""
    seed = 0
    while count:
        seed += 1
        generator = torch.Generator().manual_seed(10_000 + seed)
        scene = random_scene(generator)
        if scene.camera != "still" or len(scene.things) != 1:
            continue
        (thing,) = scene.things
        if (motions and thing.motion not in motions) or (sizes and thing.size not in sizes):
            continue
        count -= 1
        yield scene, generator


def shown(values, is_part=True) -> str:
    found = summary(torch.tensor(values).float(), keyed_generator(0, "prompts"), is_part=is_part)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def log_odds(oracle: WorldOracle, frames: np.ndarray, head: str, name: str) -> float:
    video = rearrange(torch.from_numpy(frames), "t h w c -> 1 c t h w") * 2 - 1
    with torch.no_grad():
        share = oracle.logits(video)[head].softmax(-1)[0, list(HEADS[head][0]).index(name)]
    return torch.logit(share.double(), eps=1e-9).item()


def moved_on(scene: Scene, motion: str) -> Scene:
    return replace(scene, things=(replace(scene.things[0], motion=motion),))


@pytest.mark.parametrize("kind", ["endless", "ways"])
def test_the_verb_switches_at_the_asked_second(pipe, oracle, say, kind):
    switched: dict[str, list[bool]] = {"scenes": [], "first alone": []}
    begun = []
    other_way = {"left": "right", "right": "left"}
    for number, (scene, generator) in enumerate(
        of_one_thing(COUNT, ENDLESS if kind == "endless" else tuple(other_way))
    ):
        (thing,) = scene.things
        others = [
            each
            for each in ENDLESS
            if each != thing.motion and not (each == "spin" and thing.shape in UNSPUN)
        ]
        motion = other_way.get(thing.motion) or pick(others, generator)
        after = moved_on(scene, motion)
        first, second = caption(scene, generator), caption(after, generator)
        parts = [
            StoryScene(0, SWITCH, scene.truth()),
            StoryScene(SWITCH, FRAMES, after.truth()),
        ]
        for name, prompt in {
            "scenes": f"[0-2s] {first} [2-4s] {second}",
            "first alone": first,
        }.items():
            frames = film(pipe, prompt, number, SIGNS, num_frames=FRAMES)
            read = scene_answers(oracle, torch.from_numpy(to_uint8(frames)), parts)
            switched[name] += switches(parts, read)
            if name == "scenes":
                begun.append(read[0]["motion1"] == thing.motion)
    say(f"{kind}: first verb {shown(begun)}, second {shown(switched['scenes'])}, chance "
        f"{shown(switched['first alone'])}, n {len(begun)}")  # fmt: skip
    if kind == "endless":
        assert np.mean(begun) >= 0.9 and np.mean(switched["scenes"]) >= 0.9


def long_prompt(scene: Scene, generator: torch.Generator) -> str:
    """More than 64 tokens, whose last sentence alone tells the colour of the thing."""
    told = caption(scene, generator)
    for word in COLOURS[scene.things[0].colour]:
        told = told.replace(f" {word} ", " ").replace("an ", "a ")
    return f"{told}. " * 8 + caption(scene, generator) + "."


def test_a_clause_beyond_the_limit_counts(pipe, oracle, say):
    ways = {
        "windows": PromptingConfig(long="windows"),
        "compress": PromptingConfig(long="compress"),
        "compress 32": PromptingConfig(long="compress", keep=32),
        "compress 16": PromptingConfig(long="compress", keep=16),
        "cut off": None,
    }
    right: dict[str, list[bool]] = {name: [] for name in ways}
    for number, (scene, generator) in enumerate(of_one_thing(COUNT)):
        prompt = long_prompt(scene, generator)
        assert pipe.count_tokens(prompt)[0] > 64
        for name, config in ways.items():
            frames = film(pipe, prompt, number, config, truncate=config is None)
            video = rearrange(torch.from_numpy(frames), "t h w c -> 1 c t h w") * 2 - 1
            right[name].append(oracle.classify(video)[0]["colour1"] == scene.things[0].colour)
    for name, values in right.items():
        say(f"colour of the last sentence, {name}: {shown(values)}")
    assert np.mean(right["windows"]) > np.mean(right["cut off"]) + 0.3


def test_a_weight_moves_what_its_words_say(pipe, oracle, say):
    means = []
    for weight in (0, 0.5, 1, 1.5, 2):
        found = []
        for number, (scene, generator) in enumerate(of_one_thing(COUNT, sizes=("small", "big"))):
            size, told = scene.things[0].size, caption(scene, generator)
            word = next(each for each in SIZES[size] if each in told)
            prompt = told.replace(word, f"({word}:{weight})", 1)
            frames = film(pipe, prompt, number, SIGNS, num_inference_steps=4)
            found.append(log_odds(oracle, frames, "size1", size))
        say(f"weight {weight}: log-odds of the size {shown(found, is_part=False)}")
        means.append(np.mean(found))
    assert means[0] < 0 < means[1] < means[2] < means[4]


def test_a_blend_lies_between_its_ends(pipe, say):
    places: dict[float, list[float]] = {share: [] for share in (0.25, 0.5, 0.75)}
    for number, (scene, generator) in enumerate(of_one_thing(COUNT, ("still",))):
        (thing,) = scene.things
        colour = pick([each for each in COLOURS if each != thing.colour], generator)
        state = generator.get_state()
        one = caption(scene, generator)
        generator.set_state(state)
        other = caption(replace(scene, things=(replace(thing, colour=colour),)), generator)
        ends = [film(pipe, each, number, None, num_inference_steps=4) for each in (one, other)]
        way = ends[1] - ends[0]
        for share, found in places.items():
            mixed = film(pipe, f"{one} @{share} {other}", number, SIGNS, num_inference_steps=4)
            found.append(float(((mixed - ends[0]) * way).sum() / (way * way).sum()))
    for share, found in places.items():
        told = shown(found, is_part=False)
        say(f"@{share}: {told} of the way from one film to the other")
    assert np.mean(places[0.25]) < np.mean(places[0.5]) < np.mean(places[0.75])


def test_both_sides_of_and_are_shown(pipe, oracle, say):
    counts: dict[str, list[bool]] = {"AND": [], "first alone": []}
    for number, (scene, generator) in enumerate(of_one_thing(COUNT, ("still",), ("medium",))):
        (thing,) = scene.things
        colour = pick([each for each in COLOURS if each != thing.colour], generator)
        one = caption(scene, generator)
        second = replace(scene, things=(replace(thing, colour=colour),))
        other = caption(second, generator)
        for name, prompt in {"AND": f"{one} AND {other}", "first alone": one}.items():
            frames = film(pipe, prompt, number, SIGNS, num_inference_steps=4)
            video = rearrange(torch.from_numpy(frames), "t h w c -> 1 c t h w") * 2 - 1
            read = oracle.classify(video)[0]
            seen = {read["colour1"], read["colour2"]} if read["count"] != "1" else set()
            counts[name].append(seen == {thing.colour, colour})
    for name, values in counts.items():
        say(f"two things in both colours, {name}: {shown(values)}")
