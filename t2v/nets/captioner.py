"""Models of transformers that describe a video in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from t2v.io.checkpoint import newest_checkpoint
from t2v.models.load import load_part, loading, quiet_bars, quiet_warnings
from t2v.nets import video_tower  # noqa: F401  transformers learns of our encoder by it

PART = "captioner"  # the folder of a training's checkpoint that holds one


class Captioner:
    """Any image- or video-to-text model of transformers, from a folder or the Hub.

    A model with a chat template is shown all frames at once, as a video where it takes one, with
    the prompt. One without is shown no prompt: a model of videos (one of `t2v train-captioner`, a
    GIT of videos) the frames it was made for, others (BLIP) one frame after the other.

    Args:
        name: the model; the output of `t2v train-captioner` stands for its newest checkpoint.
        device: where it computes.
        what: the setting that names it, for the message.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, name: str, device: str, what: str = "") -> None:
        what = what or f"caption.authors: model:{name}"
        quiet_bars()
        quiet_warnings()
        if checkpoint := newest_checkpoint(name):
            name = str(checkpoint / PART)
        with loading(what):
            self.processor = AutoProcessor.from_pretrained(name)
            model = load_part(what, AutoModelForImageTextToText, name, heads=True)
            self.model = model.to(device).eval()
        self.takes_chat = bool(getattr(self.processor, "chat_template", None))
        # of a model of videos without chat: how many frames it looks at, more or less confuse it
        self.num_frames = None if self.takes_chat else _frames_at_once(model.config)
        self.takes_video = self.takes_chat and hasattr(self.processor, "video_processor")

    def describe(self, frames: Sequence[np.ndarray], prompt: str, max_new_tokens: int) -> list[str]:
        """Return one caption of all frames, `h w c` uint8 RGB, or one a frame."""
        if self.num_frames:
            each = [self._clip(frames, self.num_frames)]
        elif not self.takes_chat:
            each = [self.processor(images=frame, return_tensors="pt") for frame in frames]
        elif self.takes_video:
            text = self._chat(prompt, [{"type": "video"}])
            video = np.stack(list(frames))
            each = [self.processor(text=[text], videos=[video], return_tensors="pt")]
        else:
            text = self._chat(prompt, [{"type": "image"}] * len(frames))
            each = [self.processor(text=[text], images=[list(frames)], return_tensors="pt")]
        return [self._generate(inputs, max_new_tokens) for inputs in each]

    def _clip(self, frames: Sequence[np.ndarray], count: int) -> Any:
        """The frames that a model of videos looks at, evenly spread; few are shown repeatedly."""
        chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
        inputs = self.processor(images=[frames[i] for i in chosen], return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].flatten(0, -4)[None]  # 1 t c h w
        return inputs

    def _chat(self, prompt: str, media: list[dict[str, str]]) -> str:
        turn = {"role": "user", "content": [*media, {"type": "text", "text": prompt}]}
        return str(self.processor.apply_chat_template([turn], add_generation_prompt=True))

    @torch.inference_mode()
    def _generate(self, inputs: Any, max_new_tokens: int) -> str:
        inputs = inputs.to(self.model.device)
        decoder = getattr(self.model.config, "decoder", None)
        if decoder is not None:  # it has no places for more, and its answer begins with a mark
            max_new_tokens = min(max_new_tokens, decoder.max_position_embeddings - 1)
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0]
        asked = inputs["input_ids"][0] if "input_ids" in inputs else tokens[:0]
        if torch.equal(tokens[: len(asked)], asked):  # some models repeat the prompt
            tokens = tokens[len(asked) :]
        return str(self.processor.decode(tokens, skip_special_tokens=True)).strip()


def _frames_at_once(config: Any) -> int | None:
    """The number of frames of a video that GIT, or the encoder of an encoder-decoder, takes."""
    count = getattr(config, "num_image_with_embedding", None)
    return count or getattr(getattr(config, "encoder", None), "num_frames", None)


@lru_cache(maxsize=4)
def captioner(name: str, device: str) -> Captioner:
    """Return the captioner of that name, loaded once a process."""
    return Captioner(name, device)
