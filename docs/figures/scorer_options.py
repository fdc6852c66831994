"""Options of scorers in the same short training: heads on what the embedded scorer sees and reads.

python docs/figures/scorer_options.py runs/world-time runs/heldout-time
"""

from __future__ import annotations

import sys

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.curation.shares import wilson
from t2v.data.world_shards import pixels
from t2v.evaluation.captioned import Captioned, read_captioned
from t2v.evaluation.hard_negatives import counterfactual
from t2v.models.load import load_text
from t2v.nets.scorer import load_scorer

LEARNED, HELD_OUT = 2048, 512
STEPS, BATCH, DIM, SCALE = 300, 64, 128, 20.0
SEEDS = 3
TEXTS = ("assets/world-scorer", "assets/t2v-tiny")  # the student's encoder, and another to teach
OPTIONS = ("mean and maximum", "query", "neighbours", "uncertain", "taught")


class Heads(nn.Module):
    """Heads of video tokens `b n d` and pooled texts `m d`; `query` pools the tokens by the text,
    `uncertain` gives each side a deviation."""

    def __init__(self, option: str, text_dim: int) -> None:
        super().__init__()
        self.option = option
        self.video = nn.Linear(DIM if option == "query" else 2 * DIM, DIM)
        self.text = nn.Sequential(nn.Linear(text_dim, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.key = nn.Linear(DIM, DIM)
        self.spread = nn.ModuleList((nn.Linear(2 * DIM, DIM), nn.Linear(text_dim, DIM)))

    def forward(self, tokens: Tensor, pooled: Tensor) -> Tensor:
        """Return cosines of videos and texts, `b m`."""
        text = F.normalize(self.text(pooled), dim=-1)
        if self.option == "query":  # X-Pool, arXiv 2203.15086
            weight = torch.einsum("md,bnd->bmn", text, self.key(tokens)).softmax(-1)
            seen = self.video(torch.einsum("bmn,bnd->bmd", weight, tokens))
            return torch.einsum("bmd,md->bm", F.normalize(seen, dim=-1), text)
        both = torch.cat((tokens.mean(1), tokens.amax(1)), -1)
        video = F.normalize(self.video(both), dim=-1)
        if self.option == "uncertain" and self.training:  # UATVR, arXiv 2301.06309
            video, text = (
                F.normalize(mean + (layer(x) - 3).exp() * torch.randn_like(mean), dim=-1)
                for mean, layer, x in zip((video, text), self.spread, (both, pooled), strict=True)
            )
        return video @ text.mT

    def unsure(self, tokens: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The mean log deviation of each video and of each text, `b` and `m`."""
        both = torch.cat((tokens.mean(1), tokens.amax(1)), -1)
        video, text = (layer(x) for layer, x in zip(self.spread, (both, pooled), strict=True))
        return video.mean(-1), text.mean(-1)


def surest(right: Tensor, sure: Tensor) -> int:
    """How many of the half of the queries that are surest are right."""
    return int(right[sure.argsort(descending=True)[: len(sure) // 2]].sum())


@torch.no_grad()
def seen(clips: Captioned) -> Tensor:
    """Tokens of clips, `b n d`, as the tower of the embedded scorer gives them."""
    towers = load_scorer(TEXTS[0]).towers
    return torch.cat([towers.read_video(pixels(part)) for part in clips.video.split(64)])


@torch.no_grad()
def read(captions: list[str], folder: str) -> Tensor:
    """Pooled texts, `m d`."""
    tokenizer, encoder = load_text(folder)
    found = []
    for first in range(0, len(captions), 256):
        batch = tokenizer(captions[first : first + 256], padding=True, return_tensors="pt")
        mask = batch.attention_mask[..., None]
        states = encoder(batch.input_ids, batch.attention_mask).last_hidden_state.float()
        summed = (states * mask).sum(1)
        found.append(F.rms_norm(summed, summed.shape[-1:]))
    return torch.cat(found)


def batches(option: str, texts: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of a batch; `neighbours`: eight texts with the seven nearest to each (VideoCLIP,
    arXiv 2109.14084)."""
    if option != "neighbours":
        return torch.randperm(len(texts), generator=generator)[:BATCH]
    seeds = torch.randperm(len(texts), generator=generator)[: BATCH // 8]
    near = F.normalize(texts[seeds], dim=-1) @ F.normalize(texts, dim=-1).mT
    chosen = near.topk(8, 1).indices.flatten().unique()
    return torch.cat((chosen, torch.randperm(len(texts), generator=generator)))[:BATCH].unique()


def train(option: str, tokens: Tensor, texts: Tensor, seed: int, teacher: Tensor | None) -> Heads:
    """Heads after `STEPS`; `teacher` are the cosines of others, to be like (TeachText, arXiv
    2104.08271)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    heads = Heads(option, texts.shape[1])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-3)
    for _ in range(STEPS):
        i = batches(option, texts, generator)
        cosines = heads(tokens[i], texts[i])
        own = torch.arange(len(i))
        loss = F.cross_entropy(SCALE * cosines, own) + F.cross_entropy(SCALE * cosines.mT, own)
        if teacher is not None:
            loss = loss + 10 * F.smooth_l1_loss(cosines, teacher[i][:, i], beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return heads.eval()


def main(data: str, test: str) -> None:
    clips, others = read_captioned(data, LEARNED), read_captioned(test, HELD_OUT)
    tokens, held = seen(clips), seen(others)
    says, told = ([each[0] for each in part.captions] for part in (clips, others))
    generator = torch.Generator().manual_seed(0)
    wrong = [counterfactual(text, generator) or text for text in told]
    learned = [read(says, folder) for folder in TEXTS]
    asked, false = read(told, TEXTS[0]), read(wrong, TEXTS[0])
    head = "R@1", "beats a false caption", "R@1, surest half by margin", "by deviation"
    sys.stdout.write(f"| option | {' | '.join(head)} |\n|{' --- |' * 5}\n")
    for option in OPTIONS:
        first, beaten, margin, deviation = 0, 0, 0, 0
        for seed in range(SEEDS):
            teacher = None
            if option == "taught":
                taught_by = [train("", tokens, texts, seed + 9, None) for texts in learned]
                with torch.no_grad():
                    tables = [h(tokens, x) for h, x in zip(taught_by, learned, strict=True)]
                teacher = torch.stack(tables).mean(0)
            heads = train(option, tokens, learned[0], seed, teacher)
            with torch.no_grad():
                table = torch.cat([heads(part, asked) for part in held.split(32)])
                pairs = [heads(held[i : i + 1], false[i : i + 1]) for i in range(len(held))]
            own = table.diagonal()
            best = table.topk(2, 0)
            right = best.indices[0] == torch.arange(len(table))
            first += int(right.sum())
            margin += surest(right, best.values[0] - best.values[1])
            with torch.no_grad():
                video, text = heads.unsure(held, asked)
            deviation += surest(right, -text - video[best.indices[0]])
            beaten += int((own > rearrange(torch.stack(pairs), "n 1 1 -> n")).sum())
        cells = []
        for count, part in ((first, 1), (beaten, 1), (margin, 2), (deviation, 2)):
            low, high = wilson(count, n := SEEDS * (len(held) // part))
            cells.append(f"{100 * count / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        if option != "uncertain":
            cells[3] = "-"  # nothing has trained it
        sys.stdout.write(f"| {option} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:3])
