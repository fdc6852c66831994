"""Captions of sampled videos, compared with the prompts they were sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2v.config.captions import CaptionConfig
from t2v.data.cache import weights_digest
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos
from t2v.io.progress import progress
from t2v.io.words import content_words, overlap
from t2v.nets.captioner import Captioner
from t2v.nets.preprocessing import sample_frames
from t2v.nets.sentences import SentenceEncoder

FRAMES = 8  # that a captioner is shown, unless it is made for another number


@dataclass(frozen=True)
class Describer:
    """A captioner, and the encoder that compares its captions; None: they share words."""

    name: str
    captioner: Captioner
    sentences: SentenceEncoder | None

    def describe(self, video: Tensor) -> list[str]:
        """Return captions of a video `t h w c` uint8: one, or one a frame."""
        config = CaptionConfig()
        frames = sample_frames(video[None], min(frames_of(self.captioner), len(video)))[0]
        return self.captioner.describe(list(frames.numpy()), config.prompt, config.max_new_tokens)

    def similarity(self, prompt: str, captions: Sequence[str]) -> Tensor:
        """Return how alike a prompt and each caption are, `n`."""
        if self.sentences is None:
            return shared_words(prompt, captions)
        return self.sentences.similarity(prompt, captions)


def frames_of(captioner: Captioner) -> int:
    """Return the number of frames that a captioner is shown."""
    return captioner.num_frames or FRAMES


def load(networks: Networks) -> Describer | None:
    """Load the captioner that the settings name, and the encoder of sentences.

    Raises:
        UserError: one of them cannot be loaded.
    """
    name, config = networks.config.captioner, networks.config
    if name is None:
        return None
    captioner = Captioner(name, networks.device, f"captioner={name}")
    sentences = SentenceEncoder(config.sentences, networks.device) if config.sentences else None
    by = sentences.name if sentences else "shared words"
    described = (
        f"{name} {weights_digest(captioner.model)[:8]}, {frames_of(captioner)} frames, by {by}"
    )
    return Describer(described, captioner, sentences)


def measure(videos: Videos, describer: Describer | None) -> Measurements:
    """Return the similarity of each prompt and the captions of its video, their mean (BenchUFO).

    VideoUFO (arXiv 2503.01739, section 5) describes each video with Qwen2-VL-7B and takes the
    cosine of description and prompt by all-MiniLM-L6-v2; here both are named by the user.
    """
    if describer is None:
        return {"similarity": NotRun("no model is named: captioner=MODEL")}
    captions = [describer.describe(video) for video in progress(videos.video, "describe", "videos")]
    values = [
        describer.similarity(prompt, texts).mean()
        for prompt, texts in zip(videos.prompts, captions, strict=True)
    ]
    joined = tuple(" / ".join(dict.fromkeys(texts)) for texts in captions)
    return {"similarity": PerVideo(torch.stack(values), "higher", describer.name, texts=joined)}


def shared_words(prompt: str, captions: Sequence[str]) -> Tensor:
    """Return the F1 of content words, without endings, of a prompt and each caption, `n`.

    A caption with other words for the same things counts as another: name a model of sentences.
    """
    asked = content_words(prompt)
    return torch.tensor([overlap(asked, content_words(text)) for text in captions])
