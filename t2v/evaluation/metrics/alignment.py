"""Alignment of videos and prompts, by models with a tower for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2v.evaluation.networks import Networks
from t2v.evaluation.types import CHUNK, Measurements, NotRun, PerVideo, Videos
from t2v.nets.aligner import Aligner
from t2v.nets.clip import ClipModel
from t2v.nets.scorer import load_scorer

SHARPNESS = 100.0  # of the softmax over frames: CLIP's own logit scale
RANKS = (1, 5)
FITS = 0.05  # cosine under which a real clip does not fit its prompt, and no ratio is taken


def load(networks: Networks) -> list[Aligner]:
    """Load the models that `clip` and `scorer` name, in this order.

    Raises:
        UserError: one cannot be loaded.
    """
    config, found = networks.config, list[Aligner]()
    if config.clip:
        found.append(ClipModel(config.clip, device=networks.device))
    if config.scorer:
        found.append(load_scorer(config.scorer).to(networks.device))
    return found


@torch.inference_mode()
def measure(videos: Videos, aligners: Sequence[Aligner]) -> Measurements:
    """Return SIM, SIM weighed by text, RM and retrieval both ways, of every model."""
    if not aligners:
        return {"sim": NotRun("no model is named: clip=MODEL or scorer=FOLDER")}
    found: Measurements = {}
    for number, aligner in enumerate(aligners):
        suffix = f"_{number + 1}" if number else ""
        found |= {f"{name}{suffix}": each for name, each in _by(aligner, videos).items()}
    return found


def _by(aligner: Aligner, videos: Videos) -> Measurements:
    text = aligner.embed_text(videos.prompts).cpu()  # n d
    cosine = text_to_frames(text, embed(aligner, videos.video))  # n m k
    own = cosine.diagonal().T  # n k
    mean, by = own.mean(1), aligner.name
    found: Measurements = {
        "sim": PerVideo(mean, "higher", f"cosine of prompt and video, a mean over frames, {by}")
    }
    if own.shape[1] > 1:
        method = f"the same, frames that fit the prompt better weigh more, {by}"
        found["sim_weighed"] = PerVideo(by_text(own), "higher", method)
    if videos.real is not None:
        real = text_to_frames(text, embed(aligner, videos.real)).diagonal().T.mean(1)
        method = (
            "sim over that of the real clip (GODIVA); too high where this network chose the video; "
            f"off the scale where that is under {FITS:g}, {by}"
        )
        found["rm"] = PerVideo(relative(mean, real), "higher", method, off_scale=real < FITS)
    if len(videos) <= max(RANKS):
        return found | {"video_r1": NotRun(f"retrieval needs more than {max(RANKS)} videos")}
    table = by_text(cosine)  # texts by videos
    for name, scores in (("video", table), ("text", table.T)):
        for k in RANKS:
            method = (
                f"is its own {name} among the best {k} of {len(videos)}? By chance "
                f"{k / len(videos):.2g}; {by}"
            )
            right = hits(scores, videos.prompts, k)
            found[f"{name}_r{k}"] = PerVideo(right, "higher", method, is_share=True)
    return found


def embed(aligner: Aligner, video: Tensor) -> Tensor:
    """Return unit vectors of videos, `n k d`, a few videos at a time."""
    return torch.cat([aligner.embed_video(chunk).cpu() for chunk in video.split(CHUNK)])


def text_to_frames(text: Tensor, video: Tensor) -> Tensor:
    """Return the cosine of each text with each frame of each video, `m n k`."""
    return torch.einsum("md,nkd->mnk", text, video)


def by_text(cosine: Tensor) -> Tensor:
    """Return one cosine for those of the frames, `... k`: better ones weigh more."""
    return (cosine * (SHARPNESS * cosine).softmax(-1)).sum(-1)


def relative(ours: Tensor, real: Tensor) -> Tensor:
    """Return GODIVA's RM, the cosine of a video over its real clip's; nan where that is under 0.05.

    A ratio of cosines: an unrelated video may well score 0.8, and over one near 0 it means nothing.
    """
    return torch.where(real < FITS, torch.nan, ours / real)


def hits(score: Tensor, prompts: Sequence[str], k: int) -> Tensor:
    """Return whether each row finds its own column among the best `k`, `n` of 0 and 1.

    Ties count against it, so that a constant score finds nothing; columns of the same prompt are
    no rivals. Chance is k / n.

    Args:
        score: `n n`, row i belongs to column i.
    """
    same = torch.tensor([[one == other for other in prompts] for one in prompts])
    rivals = (score >= score.diagonal()[:, None]) & ~same
    return (rivals.sum(1) < k).float()
