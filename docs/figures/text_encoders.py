"""The table of docs/text.md: attribute binding of text encoders against size and time.

    python docs/figures/text_encoders.py [--steps 100] [--work runs/text-encoders]

Every encoder learns at the same cost, `--steps` of 32 captions of the world (folders that are there
are kept), and is then frozen. A small scorer of scenes, the same for all, learns to read its tokens
by cross-attention, and chooses between the true scene of an unseen caption of two things and the
same scene with their colours exchanged, or with one colour another: chance is 50 %. The interval is
Wilson's, of 95 %. Parameters and time are those of the encoder; times are of one run, one caption
at a time, on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.config.text import TextEncoderConfig, TrainTextConfig
from t2v.config.world import WorldTextConfig
from t2v.curation.shares import wilson
from t2v.errors import UserError
from t2v.models.folder import embedded_model
from t2v.models.load import load_text, quiet_bars
from t2v.models.text import encode_alone, encode_tokens
from t2v.models.text_reading import read_as
from t2v.training.tasks.text import train_text as train_on_captions
from t2v.world.grammar import COLOURS, SHAPES, Scene, caption, random_scene
from t2v.world.text import train_text as train_on_scenes

CAPTIONS, TRAINED, TESTED, BATCH = 6000, 2000, 1000, 32
PROBE_STEPS, PROBE_BATCH, PROBE_LR, WIDTH = 400, 64, 2e-3, 64
Text = tuple[PreTrainedTokenizerBase, PreTrainedModel]


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, the folder of its encoder, and how it is read."""

    name: str
    folder: str
    reading: TextEncoderConfig = field(default_factory=TextEncoderConfig)


def rows(work: Path) -> list[Row]:
    """All lines, with the folders that `trained` makes."""
    t5, elastic = str(work / "t5"), str(work / "t5-elastic")
    read = TextEncoderConfig
    return [
        Row("T5", t5),
        Row("T5, layer 2 of 4", t5, read(layer=(2,))),
        Row("T5, layer 1 of 4", t5, read(layer=(1,))),
        Row("T5, first and last averaged", t5, read(layer=(1, -1))),
        Row("T5, whitened", t5, read(whiten=True)),
        Row("T5, pooled", t5, read(pooled=True)),
        Row("T5, 48 of 192 channels", t5, read(width=48)),
        Row("T5, whitened to 48", t5, read(whiten=True, width=48)),
        Row("elastic T5", elastic),
        Row("elastic T5, layer 2", elastic, read(layer=(2,))),
        Row("elastic T5, layer 2, 48 channels", elastic, read(layer=(2,), width=48)),
        Row("hashed n-grams", str(work / "ngrams")),
        Row("hashed n-grams, untrained", str(work / "ngrams-untrained")),
        Row("bytes by convolutions", str(work / "bytes")),
        Row("average (DAN)", str(work / "average")),
        Row("T5 and n-grams at once", t5, read(second=str(work / "ngrams"))),
        Row("T5, captions alone: simcse", str(work / "t5-simcse")),
        Row("T5, captions alone: declutr", str(work / "t5-declutr")),
        Row("T5, untrained", str(work / "t5-untrained")),
        Row("embedded model's T5, trained 32 times as long", str(embedded_model())),
    ]


def trained(work: Path, steps: int) -> None:
    """Train the encoders whose folders are not there."""
    generator = torch.Generator().manual_seed(0)
    file = work / "captions.txt"
    work.mkdir(parents=True, exist_ok=True)
    captions = (caption(random_scene(generator), generator) for _ in range(CAPTIONS))
    file.write_text("\n".join(captions) + "\n")
    scenes = {"t5": {}, "ngrams": {"kind": "ngrams"}, "average": {"kind": "average"}}
    scenes |= {"bytes": {"kind": "bytes"}, "t5-elastic": {"elastic": True}}
    scenes |= {"t5-untrained": {"steps": 0}, "ngrams-untrained": {"kind": "ngrams", "steps": 0}}
    for name, how in scenes.items():
        given = {"steps": steps, "batch_size": BATCH, "lr": 2e-3, "count": CAPTIONS} | how
        if not (work / name / "text_encoder").is_dir():
            train_on_scenes(WorldTextConfig(output=str(work / name), **given))
    for objective in ("simcse", "declutr"):
        if not (work / f"t5-{objective}" / "text_encoder").is_dir():
            train_on_captions(
                TrainTextConfig(
                    output=str(work / f"t5-{objective}"), data=str(file), objective=objective,
                    steps=steps, batch_size=BATCH, lr=2e-3, vocabulary=512,
                )
            )  # fmt: skip


def pairs(count: int, generator: torch.Generator, split: str) -> Iterator[tuple[Scene, str]]:
    """Scenes of two things that differ in shape and colour, with a caption each."""
    while count:
        scene = random_scene(generator, split)
        if len(scene.things) == 2:
            one, other = scene.things
            if one.shape != other.shape and one.colour != other.colour:
                count -= 1
                yield scene, caption(scene, generator)


def swapped(scene: Scene) -> Scene:
    """The scene with the colours of its two things exchanged."""
    one, other = scene.things
    colours = replace(one, colour=other.colour), replace(other, colour=one.colour)
    return replace(scene, things=colours)


def recoloured(scene: Scene, generator: torch.Generator) -> Scene:
    """The scene with the colour of one of its things one that neither has."""
    left = [each for each in COLOURS if each not in {thing.colour for thing in scene.things}]
    which = int(torch.randint(2, (), generator=generator))
    things = list(scene.things)
    colour = left[int(torch.randint(len(left), (), generator=generator))]
    things[which] = replace(things[which], colour=colour)
    return replace(scene, things=tuple(things))


def indices(scenes: list[Scene]) -> Tensor:
    """Shape and colour of both things, `b 2 2`."""
    shapes, colours = list(SHAPES), list(COLOURS)
    return torch.tensor(
        [[(shapes.index(t.shape), colours.index(t.colour)) for t in s.things] for s in scenes]
    )


class Probe(nn.Module):
    """A score of a scene and the tokens of a caption: each thing of the scene asks the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape, self.colour = nn.Embedding(6, WIDTH), nn.Embedding(7, WIDTH)
        self.thing = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.tokens = nn.Linear(width, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.score = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def forward(self, text: Tensor, mask: Tensor, scene: Tensor) -> Tensor:
        # text: b m d    mask: b m    scene: b 2 2
        things = torch.cat((self.shape(scene[..., 0]), self.colour(scene[..., 1])), -1)
        asked = self.thing(things)  # b 2 w
        tokens = F.layer_norm(self.tokens(text), (WIDTH,))
        found, _ = self.attention(asked, tokens, tokens, key_padding_mask=~mask)
        score: Tensor = self.score(torch.cat((asked, found), -1)).sum((1, 2))
        return score


@torch.no_grad()
def embedded(text: Text, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens `b m d` at the scale 1 for all encoders, and where there are some, `b m`."""
    tokenizer, encoder = text
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    lengths = tokens.attention_mask.sum(1)
    found = [
        encode_tokens(encoder, ids, length)
        for ids, length in zip(tokens.input_ids.split(100), lengths.split(100), strict=True)
    ]
    mask = tokens.attention_mask.bool()
    rows = torch.cat(found).float()
    return rows / rows[mask].std(), mask


def accuracy(text: Text, seed: int = 0) -> dict[str, int]:
    """Right choices of the probe among `TESTED`, with the colours exchanged and with another."""
    generator = torch.Generator().manual_seed(seed)
    seen = list(pairs(TRAINED, generator, "train"))
    new = list(pairs(TESTED, generator, "heldout"))
    rows, mask = embedded(text, [words for _, words in seen])
    truth = indices([scene for scene, _ in seen])
    wrong = [indices([swapped(scene) for scene, _ in seen])]
    wrong += [indices([recoloured(scene, generator) for scene, _ in seen])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Probe(rows.shape[-1])
    optimizer = torch.optim.AdamW(probe.parameters(), lr=PROBE_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PROBE_LR, total_steps=PROBE_STEPS)
    for step in range(PROBE_STEPS):
        chosen = torch.randint(TRAINED, (PROBE_BATCH,), generator=generator)
        apart = probe(rows[chosen], mask[chosen], truth[chosen])
        apart = apart - probe(rows[chosen], mask[chosen], wrong[step % 2][chosen])
        loss = F.softplus(-apart).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    rows, mask = embedded(text, [words for _, words in new])
    truth = indices([scene for scene, _ in new])
    foils = {
        "exchanged": indices([swapped(scene) for scene, _ in new]),
        "another": indices([recoloured(scene, generator) for scene, _ in new]),
    }
    with torch.no_grad():
        return {
            name: int((probe(rows, mask, truth) > probe(rows, mask, foil)).sum())
            for name, foil in foils.items()
        }


def _percent(right: int) -> str:
    """A share of `TESTED` in percent, with its interval."""
    low, high = wilson(right, TESTED)
    return f"{100 * right / TESTED:.1f} ({100 * low:.1f} to {100 * high:.1f})"


@torch.no_grad()
def milliseconds(texts: list[Text], captions: list[str]) -> list[float]:
    """The median time of a prompt by each encoder, tokens and all; they take turns."""
    run: Callable[[Text, str], Tensor] = lambda text, words: encode_alone(  # noqa: E731
        text[1], text[0](words).input_ids
    )
    times: list[list[float]] = [[] for _ in texts]
    for words in captions:
        for text, found in zip(texts, times, strict=True):
            start = time.perf_counter()
            run(text, words)
            found.append(1000 * (time.perf_counter() - start))
    return [sorted(each)[len(each) // 2] for each in times]


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("runs/text-encoders"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    quiet_bars()
    trained(given.work, given.steps)
    generator = torch.Generator().manual_seed(1)
    some = [caption(random_scene(generator), generator) for _ in range(1000)]
    lines = rows(given.work)
    texts = []
    for row in lines:
        text = read_as(load_text(row.folder), row.reading, some)
        texts.append((text[0], text[1].float().eval()))
    times = milliseconds(texts, some[:60])
    names = "encoder", "parameters", "tokens x channels", "time", "exchanged", "another colour"
    sys.stdout.write(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n")
    for row, text, taken in zip(lines, texts, times, strict=True):
        right = accuracy(text)
        size = sum(p.numel() for p in text[1].parameters()) / 1e6
        shape = embedded(text, some[:50])
        length = shape[1].sum(1).float().mean()
        cells = [
            row.name, f"{size:.2f}M", f"{length:.0f} x {shape[0].shape[-1]}",
            f"{taken / times[0]:.2f}", *(_percent(n) for n in right.values()),
        ]  # fmt: skip
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
