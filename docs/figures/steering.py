"""Measure whether words of motion steer a model, and whether a camera's move is learned of a clip.

    python docs/figures/steering.py clips runs/paced      slow and fast films with captions
    t2v curate runs/paced -o runs/tagged 'skip=[quality,overlay,dedup,topics,balance]' \\
        motion.min_motion=0 motion.max_frozen=1 motion.max_chaos=9
    t2v finetune --config configs/finetune/lora.yaml data=runs/tagged/manifest.jsonl \\
        motion_words=true held_out=8 base_prompts=null base_ratio=0 steps=500 output=runs/words
    python docs/figures/steering.py steer runs/words/checkpoint-000500 48

    python docs/figures/steering.py shot runs/shot "pan left"      a clip whose camera moves
    t2v finetune --config configs/finetune/motion.yaml data=runs/shot output=runs/pan
    python docs/figures/steering.py camera runs/pan/checkpoint-000300 "pan left" 24
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from t2v.data.motion_words import WORDS
from t2v.evaluation.intervals import bootstrap
from t2v.evaluation.metrics.attributes import answers
from t2v.evaluation.metrics.motion import motion
from t2v.io.video import write_video
from t2v.pipelines.t2v import T2VPipeline
from t2v.world.grammar import Scene, caption, random_scene
from t2v.world.oracle import load_oracle
from t2v.world.render import render

FRAMES, RATE, CLIPS, MOTIONS = 17, 8, 192, ("rise", "fall", "bounce")


def scenes(count: int, generator: torch.Generator) -> Iterator[Scene]:
    """Scenes of one thing, not a big one, that moves before a camera that does not."""
    while count:
        scene = random_scene(generator)
        thing = scene.things[0]
        moves = len(scene.things) == 1 and thing.motion in MOTIONS and thing.size != "big"
        if moves and scene.camera == "still":
            count -= 1
            yield scene


def clips(folder: str) -> None:
    """Write films, every other one slow and fast, with captions that do not say so."""
    generator, place = torch.Generator().manual_seed(0), Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes(CLIPS, generator)):
        paced = replace(scene, speed=("slow", "fast")[number % 2])
        write_video(place / f"{number:03}.mp4", render(paced, FRAMES)[0].numpy(), RATE)
        (place / f"{number:03}.txt").write_text(caption(scene, generator) + "\n")


def told(name: str, values: Tensor) -> None:
    """Write a mean over prompts and its 95 % interval."""
    low, high = bootstrap(values, torch.Generator().manual_seed(0))
    sys.stdout.write(f"{name}: {values.mean():.2f} [{low:.2f}, {high:.2f}] of {len(values)}\n")


def steer(checkpoint: str, count: str) -> None:
    """Write the motion of films of the same prompts and seeds with words of more and of little."""
    generator = torch.Generator().manual_seed(1)
    prompts = [caption(scene, generator) for scene in scenes(int(count), generator)]
    apart: list[Tensor] = []
    for name in ("t2v-tiny", checkpoint):
        pipe = T2VPipeline.from_pretrained(name)
        pipe.set_progress_bar_config(disable=True)
        speeds = []
        for tag in ("motion-low", "motion-medium"):
            asked = [f"{text}, {WORDS[tag]}, {WORDS['camera-still']}" for text in prompts]
            films = [
                pipe(text, generator=torch.Generator().manual_seed(seed), output_type="np").frames
                for seed, text in enumerate(asked)
            ]
            video = torch.cat([torch.as_tensor(each) for each in films])
            speeds.append(motion((255 * video).round().byte(), RATE).speed.nan_to_num(0.0))
            told(f"{name}, {WORDS[tag]}, % of the side a second", speeds[-1])
        told(f"{name}, some over little", speeds[1] - speeds[0])
        told(f"{name}, share of prompts with more for some", (speeds[1] > speeds[0]).float())
        apart.append(speeds[1] - speeds[0])
    told("the tuned one's difference over the other's", apart[1] - apart[0])


def resting(count: int, generator: torch.Generator) -> Iterator[Scene]:
    """Scenes of one thing that rests before a camera that does not move."""
    while count:
        scene = random_scene(generator)
        if len(scene.things) == 1 and scene.things[0].motion == scene.camera == "still":
            count -= 1
            yield scene


def shot(folder: str, camera: str) -> None:
    """Write a clip of a thing that rests, whose camera moves."""
    (scene,) = resting(1, torch.Generator().manual_seed(0))
    Path(folder).mkdir(parents=True, exist_ok=True)
    film = render(replace(scene, camera=camera), FRAMES)[0].numpy()
    write_video(Path(folder, "one.mp4"), film, RATE)
    Path(folder, "one.txt").write_text("it\n")


def camera(checkpoint: str, move: str, count: str) -> None:
    """Write how often films from other first frames move their camera so, by the oracle."""
    scenes = list(resting(int(count), torch.Generator().manual_seed(99)))
    judge = load_oracle("assets/world-oracle")
    for name in ("t2v-tiny", checkpoint):
        pipe = T2VPipeline.from_pretrained(name)
        pipe.set_progress_bar_config(disable=True)
        films = []
        for seed, scene in enumerate(scenes):
            first, generator = render(scene, 1)[0][0].numpy(), torch.Generator().manual_seed(seed)
            given = {"image": first, "guidance_scale": 2.0, "upscale": 1, "output_type": "np"}
            films.append(torch.as_tensor(pipe("it", generator=generator, **given).frames))
        read = answers(judge, (255 * torch.cat(films)).round().byte())
        told(f"{name}, {move}, share", torch.tensor([float(a["camera"] == move) for a in read]))
        kept = [
            a["shape1"] == scene.things[0].shape and a["colour1"] == scene.things[0].colour
            for a, scene in zip(read, scenes, strict=True)
        ]
        told(f"{name}, shape and colour kept, share", torch.tensor(kept).float())


if __name__ == "__main__":
    {"clips": clips, "steer": steer, "shot": shot, "camera": camera}[sys.argv[1]](*sys.argv[2:])
