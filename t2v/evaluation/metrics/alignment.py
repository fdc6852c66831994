"""How well videos and prompts belong together, to the towers of a named model."""

from __future__ import annotations

import torch
from torch import Tensor

from t2v.evaluation.types import CHUNK, Column, Findings, Nets, NotRun, Videos
from t2v.nets.aligner import Aligner

SHARPNESS = 100.0  # of the softmax over frames: CLIP's own logit scale
RANKS = (1, 5)
FITS = 0.05  # cosine under which a real clip does not fit its prompt, and nothing is a share of it


@torch.inference_mode()
def alignment(videos: Videos, nets: Nets) -> Findings:
    """SIM, SIM weighed by text, RM and retrieval both ways, of every model that was named."""
    if not nets.aligners:
        return {"sim": NotRun("no model is named: clip=MODEL or scorer=FOLDER")}
    found: Findings = {}
    for number, each in enumerate(nets.aligners):
        named = f"_{number + 1}" if number else ""
        found |= {f"{name}{named}": value for name, value in _by(each, videos).items()}
    return found


def _by(aligner: Aligner, videos: Videos) -> Findings:
    text = aligner.embed_text(videos.prompts).cpu()  # n d
    seen = see(aligner, videos.video)  # n k d
    score = text_to_frames(text, seen)  # n m k
    own = score.diagonal().T  # n k
    mean, weighed = own.mean(1), by_text(own)
    by = aligner.name
    found: Findings = {
        "sim": Column(mean, "higher", f"cosine of prompt and video, a mean over frames, {by}")
    }
    if own.shape[1] > 1:
        words = "the same, frames that fit the prompt better weigh more"
        found["sim_weighed"] = Column(weighed, "higher", f"{words}, {by}")
    if videos.real is not None:
        real = text_to_frames(text, see(aligner, videos.real)).diagonal().T.mean(1)
        words = (
            "sim over that of the real clip (GODIVA); too high where this network chose the video"
        )
        told = f"{words}; off the scale where that is under {FITS:g}, {by}"
        found["rm"] = Column(relative(mean, real), "higher", told, off=real < FITS)
    if len(videos) <= max(RANKS):
        found["video_r1"] = NotRun(f"retrieval needs more than {max(RANKS)} videos")
    else:
        table = by_text(score)  # texts by videos
        for name, scores in (("video", table), ("text", table.T)):
            found |= {
                f"{name}_r{k}": Column(
                    hits(scores, videos.prompts, k),
                    "higher",
                    f"is its own {name} among the best {k} of {len(videos)}? By chance "
                    f"{k / len(videos):.2g}; {by}",
                    is_share=True,
                )
                for k in RANKS
            }
    return found


def see(aligner: Aligner, video: Tensor) -> Tensor:
    """Unit vectors of videos, `n k d`."""
    return torch.cat([aligner.embed_video(chunk).cpu() for chunk in video.split(CHUNK)])


def text_to_frames(text: Tensor, seen: Tensor) -> Tensor:
    """The cosine of each text with each frame of each video, `m n k`."""
    return torch.einsum("md,nkd->mnk", text, seen)


def by_text(score: Tensor) -> Tensor:
    """One score of the frames' scores `... k`: those that fit the text better weigh more."""
    return (score * (SHARPNESS * score).softmax(-1)).sum(-1)


def relative(ours: Tensor, real: Tensor) -> Tensor:
    """GODIVA's RM, the score of a video over that of the real clip, nan where that is under 0.05.

    A ratio of cosines: an unrelated video may well score 0.8, and over one near 0 it is anything.
    """
    return torch.where(real < FITS, torch.nan, ours / real)


def hits(score: Tensor, prompts: tuple[str, ...], k: int) -> Tensor:
    """Whether each row finds its own column among the best `k`, `n` of 0 and 1.

    Ties count against it, so that a constant score finds nothing; columns of the same prompt are
    no rivals. Chance is k / n.

    Args:
        score: `n n`, row i belongs to column i.
    """
    same = torch.tensor([[one == other for other in prompts] for one in prompts])
    rivals = (score >= score.diagonal()[:, None]) & ~same
    return (rivals.sum(1) < k).float()
