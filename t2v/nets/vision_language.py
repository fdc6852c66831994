"""Models of transformers that say what they see, and that measure how text fits pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from t2v.models.load import load_part, loading


class Captioner:
    """Any image- or video-to-text model of transformers, from a folder or the Hub.

    A model with a chat template is shown all frames at once, as a video where it takes one, with
    the prompt. One without (BLIP, GIT) is shown one frame after the other, without prompt.

    Args:
        what: the setting that names it, for the message.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, name: str, device: str, what: str = "") -> None:
        what = what or f"caption.authors: model:{name}"
        with loading(what):
            self.processor = AutoProcessor.from_pretrained(name)
            model = load_part(what, AutoModelForImageTextToText, name, heads=True)
            self.model = model.to(device).eval()
        self.takes_chat = bool(getattr(self.processor, "chat_template", None))
        self.takes_video = self.takes_chat and hasattr(self.processor, "video_processor")

    def describe(self, frames: Sequence[np.ndarray], prompt: str, max_new_tokens: int) -> list[str]:
        """One caption of all frames, `h w c` uint8 RGB, or one a frame."""
        if not self.takes_chat:
            each = [self.processor(images=frame, return_tensors="pt") for frame in frames]
        elif self.takes_video:
            text = self._chat(prompt, [{"type": "video"}])
            video = np.stack(list(frames))
            each = [self.processor(text=[text], videos=[video], return_tensors="pt")]
        else:
            text = self._chat(prompt, [{"type": "image"}] * len(frames))
            each = [self.processor(text=[text], images=[list(frames)], return_tensors="pt")]
        return [self._generate(inputs, max_new_tokens) for inputs in each]

    def _chat(self, prompt: str, shown: list[dict[str, str]]) -> str:
        turn = {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}
        return str(self.processor.apply_chat_template([turn], add_generation_prompt=True))

    @torch.inference_mode()
    def _generate(self, inputs: Any, max_new_tokens: int) -> str:
        inputs = inputs.to(self.model.device)
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0]
        asked = inputs["input_ids"][0] if "input_ids" in inputs else tokens[:0]
        if torch.equal(tokens[: len(asked)], asked):  # some give the prompt back
            tokens = tokens[len(asked) :]
        return str(self.processor.decode(tokens, skip_special_tokens=True)).strip()


class Scorer:
    """A model of two towers (CLIP, SigLIP, ...) that measures how well texts fit pictures.

    Raises:
        UserError: it cannot be loaded, or has no such towers.
    """

    def __init__(self, name: str, device: str) -> None:
        with loading(f"scorer={name}"):
            self.processor = AutoProcessor.from_pretrained(name)
            model = load_part(f"scorer={name}", AutoModel, name, heads=True)
            self.model = model.to(device).eval()
            if not hasattr(self.model, "get_image_features"):
                raise ValueError("It compares no pictures with texts; CLIP and SigLIP do.")

    @torch.inference_mode()
    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """The cosine of each text with the frames, the mean over them (GODIVA's SIM).

        A text longer than the model takes counts by its beginning.
        """
        inputs = self.processor(
            text=list(texts),
            images=list(frames),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        output = self.model(**inputs)
        pictures = F.normalize(output.image_embeds.float(), dim=-1)  # n d
        said = F.normalize(output.text_embeds.float(), dim=-1)  # m d
        return (said @ pictures.mT).mean(dim=1).tolist()


@lru_cache(maxsize=4)
def captioner(name: str, device: str) -> Captioner:
    """The captioner of that name, loaded once a process."""
    return Captioner(name, device)


@lru_cache(maxsize=2)
def scorer(name: str, device: str) -> Scorer:
    """The scorer of that name, loaded once a process."""
    return Scorer(name, device)
