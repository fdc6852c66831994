"""What a captioner says of a video, held beside what was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from t2v.config.captions import CaptionConfig
from t2v.data.cache import weights_digest
from t2v.data.words import content_words, overlap
from t2v.evaluation.types import Column, Findings, Nets, NotRun, Teller, Videos
from t2v.models.load import load_part, loading
from t2v.nets.captioner import Captioner
from t2v.nets.preprocessing import sample_frames

logger = logging.getLogger(__name__)

FRAMES = 8  # that a captioner is shown


def caption_back(videos: Videos, nets: Nets) -> Findings:
    """How like its prompt a video is described, the mean of its captions (BenchUFO).

    VideoUFO (arXiv 2503.01739, section 5) describes each video with Qwen2-VL-7B and takes the
    cosine of description and prompt by all-MiniLM-L6-v2; here both are named by the user.
    """
    teller = nets.teller
    if teller is None:
        return {"similarity": NotRun("no model is named: captioner=MODEL")}
    said = []
    bar = tqdm(videos.video, unit=" captions", disable=None)
    for number, video in enumerate(bar):
        if bar.disable and number % 50 == 0:  # no terminal
            logger.info("captioning %d of %d", number + 1, len(videos))
        said.append(teller.say(video))
    values = [
        teller.compare(prompt, texts).mean()
        for prompt, texts in zip(videos.prompts, said, strict=True)
    ]
    told = tuple(" / ".join(dict.fromkeys(texts)) for texts in said)
    return {"similarity": Column(torch.stack(values), "higher", teller.name, texts=told)}


def teller_of(captioner: str, sentences: str | None, device: str) -> Teller:
    """A captioner, and what compares its words: a model of sentences, or the words they share.

    Args:
        captioner: image- or video-to-text model of transformers.
        sentences: text encoder of transformers; None: `shared_words`.

    Raises:
        UserError: one of them cannot be loaded.
    """
    config = CaptionConfig()
    model = Captioner(captioner, device, f"captioner={captioner}")
    compare, by = (
        (shared_words, "shared words") if sentences is None else _cosines(sentences, device)
    )

    def say(video: Tensor) -> list[str]:
        shown = sample_frames(video[None], min(FRAMES, len(video)))[0]
        return model.describe(list(shown.numpy()), config.prompt, config.max_new_tokens)

    name = f"{captioner} {weights_digest(model.model)[:8]}, {FRAMES} frames, by {by}"
    return Teller(name, say, compare)


def shared_words(prompt: str, texts: Sequence[str]) -> Tensor:
    """The F1 of content words, without endings, of a prompt and each text, `n` in [0, 1].

    A text with other words for the same things counts as another: name a model of sentences.
    """
    asked = content_words(prompt)
    return torch.tensor([overlap(asked, content_words(text)) for text in texts])


def _cosines(name: str, device: str) -> tuple[Callable[[str, Sequence[str]], Tensor], str]:
    """The cosine of sentences, each the mean of its tokens (Sentence-BERT, arXiv 1908.10084)."""
    with loading(f"sentences={name}"):
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = load_part(f"sentences={name}", AutoModel, name, heads=True).to(device).eval()
        model = model.get_encoder() if model.config.is_encoder_decoder else model

    @torch.inference_mode()
    def compare(prompt: str, texts: Sequence[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "return_tensors": "pt"}
        tokens = tokenizer([prompt, *texts], **options).to(device)
        states = model(**tokens).last_hidden_state.float()
        mask = tokens.attention_mask[..., None]
        vectors = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        return (vectors[1:] @ vectors[0]).cpu()

    return compare, f"{name} {weights_digest(model)[:8]}"
