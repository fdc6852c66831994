"""The nodes: a model, a LoRA in it, and a video of a prompt, pictures and clips."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from t2v.comfyui import host
from t2v.config.sampling import INPUTS, REFERENCES, SampleConfig
from t2v.config.words import setting_words
from t2v.errors import UserError

MODEL = "T2V_MODEL"  # the settings that say what is loaded; it is when a video is made
GIVEN = "its input"  # in messages, in the place of a file's name
ITS_OWN = "its own"  # of a checkpoint of two transformers each, else the first
PARTS = (ITS_OWN, "transformer", "transformer_2")
OWN = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "upscale")
Input = tuple[Any, dict[str, Any]]


def setting(name: str, kind: str | None = None, **about: Any) -> Input:
    """The input of a setting: its kind, or its choices, with its default and words.

    Args:
        kind: of ComfyUI; None: the choices of the setting, without "auto" where `without` says.
        about: what else ComfyUI takes. A number that the model has a default of begins with 0.
    """
    defaults = {each.name: each.default for each in fields(SampleConfig)}
    default = defaults[name] if defaults[name] is not None else 0
    words = setting_words(SampleConfig)[name].replace("null:", "0:")
    choices = kind or list(get_args(get_type_hints(SampleConfig)[name]))
    return choices, {"default": default, "tooltip": words, **about}


def _side(name: str) -> Input:
    return setting(name, "INT", min=0, max=8192)


class T2VModel:
    """A pipeline folder of t2v or diffusers, and how it is held."""

    DESCRIPTION = "A video model: the small one inside t2v, or a pipeline folder of diffusers"
    CATEGORY = "t2v"
    FUNCTION = "choose"
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Input]]:
        """The inputs, as ComfyUI asks for them."""
        tooltip = "t2v-tiny, the embedded model, or a pipeline folder on this machine"
        offload, about = setting("offload")
        return {
            "required": {
                "model": setting("model", "STRING", tooltip=tooltip),
                "dtype": setting("dtype"),
                "offload": (
                    [each for each in offload if each != "auto"],
                    {**about, "default": "none"},
                ),
                "quantize": setting("quantize", "STRING"),
                "vae_tiling": setting("vae_tiling", "BOOLEAN"),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model: str | None, **_: Any) -> str:
        """The state of the files, so that a model that was saved again is read again.

        Args:
            model: None where another node gives it, whose own changes count then.
        """
        from t2v.comfyui.film import local_folder  # imports diffusers: ComfyUI starts sooner
        from t2v.sampling.engine import state_of

        return "" if model is None else str(state_of(local_folder(model)))

    def choose(self, **settings: Any) -> tuple[SampleConfig]:
        """Return the settings of the model.

        Raises:
            UserError: there is no such model here.
        """
        from t2v.comfyui.film import local_folder

        local_folder(settings["model"])
        return (SampleConfig(**settings),)


class T2VLoRA:
    """One more LoRA in a model."""

    DESCRIPTION = "A LoRA of diffusers, ComfyUI or peft; several are chained"
    CATEGORY = "t2v"
    FUNCTION = "add"
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Input]]:
        """The inputs, as ComfyUI asks for them."""
        lora = "a file in ComfyUI's loras folder, or the path of one, or of a checkpoint"
        strength = "0 is the model without it"
        part = "of a model with two transformers (Wan 2.2 A14B): the first is of high noise"
        return {
            "required": {
                "model": (MODEL, {}),
                "lora": ("STRING", {"default": "", "tooltip": lora}),
                "strength": (
                    "FLOAT",
                    {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05, "tooltip": strength},
                ),
            },
            "optional": {"part": (list(PARTS), {"default": ITS_OWN, "tooltip": part})},
        }

    @classmethod
    def IS_CHANGED(cls, lora: str | None, **_: Any) -> str:
        """The state of the file, so that a LoRA that was saved again is read again."""
        from t2v.sampling.engine import state_of

        return "" if lora is None else str(state_of(Path(host.lora_path(lora))))

    def add(
        self, model: SampleConfig, lora: str, strength: float, part: str = ITS_OWN
    ) -> tuple[SampleConfig]:
        """Return the settings of the model with the LoRA.

        Raises:
            UserError: there is no such file; some LoRAs of a chain have a part and others none.
        """
        path = host.lora_path(lora)
        if not lora.strip() or not Path(path).exists():
            raise UserError(
                f"lora={lora}: there is no such file. Give the name of one in ComfyUI's loras "
                "folder, or a path."
            )
        if model.lora and bool(model.lora_part) != (part != ITS_OWN):
            raise UserError(
                f"lora={lora} part={part}: of several LoRAs each has a part, or none has. Choose "
                f"{ITS_OWN!r} for all, or a transformer for each."
            )
        added: dict[str, Any] = {"lora": path, "lora_scale": strength}
        added |= {} if part == ITS_OWN else {"lora_part": part}
        for name, value in added.items():
            added[name] = (*(getattr(model, name) if model.lora else ()), value)
        return (replace(model, **added),)


class T2VSample:
    """A video of a prompt."""

    DESCRIPTION = "A video, the same as that of `t2v sample`. 0 is the model's own"
    CATEGORY = "t2v"
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("images", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Input]]:
        """The inputs, as ComfyUI asks for them."""
        text = {"multiline": True}
        scale = {"min": 0.0, "max": 100.0, "step": 0.1}
        return {
            "required": {
                "model": (MODEL, {}),
                "prompt": ("STRING", {"default": "a red ball bounces on grass", **text}),
                "negative_prompt": setting("negative_prompt", "STRING", **text),
                "seed": setting("seed", "INT", min=0, max=2**63 - 1, control_after_generate=True),
                "num_inference_steps": setting("num_inference_steps", "INT", min=0, max=1000),
                "guidance_scale": setting("guidance_scale", "FLOAT", **scale),
                "width": _side("width"),
                "height": _side("height"),
                "num_frames": setting("num_frames", "INT", min=0, max=10_000),
                "upscale": setting("upscale", "INT", min=0, max=4),
            },
            "optional": {
                "image": ("IMAGE", {"tooltip": "picture that the video begins with"}),
                "last_image": ("IMAGE", {"tooltip": "picture that the video ends with"}),
                "video": (
                    "IMAGE",
                    {"tooltip": "clip to go on from, or to edit: mask, strength"},
                ),
                "mask": ("MASK", {"tooltip": "of the clip: what is set is made anew"}),
                "strength": setting("strength", "FLOAT", min=0.0, max=1.0, step=0.05),
                REFERENCES: ("IMAGE", {"tooltip": "pictures of the subjects, a batch, in order"}),
            },
        }

    def sample(
        self, model: SampleConfig, prompt: str, strength: float = 0.0, **given: Any
    ) -> tuple[Tensor, float]:
        """Return the frames `b h w c` in [0, 1], and how many of them a second has.

        Raises:
            UserError: what is given does not go together, or not with the model.
        """
        from t2v.comfyui.film import film

        names = [name for name in INPUTS if given.get(name) is not None]
        seen = {name: pixels(given[name]) for name in names}
        settings = {name: value for name, value in given.items() if name not in INPUTS}
        settings |= {name: settings[name] or None for name in OWN if name in settings}
        settings |= dict.fromkeys(names, GIVEN)
        if REFERENCES in seen:
            settings[REFERENCES] = (GIVEN,) * len(seen[REFERENCES])
        config = replace(model, strength=strength or None, **settings)
        made = film(config, prompt, seen)
        frames = np.ascontiguousarray(made.frames, np.float32) / 255
        return torch.from_numpy(frames), made.fps


def pixels(images: Tensor) -> np.ndarray:
    """Pictures `b h w c` or masks `b h w` in [0, 1] as `b h w c` uint8, nearest levels."""
    levels = (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
    return levels[..., None] if levels.ndim == 3 else np.ascontiguousarray(levels[..., :3])


NODE_CLASS_MAPPINGS = {"T2VModel": T2VModel, "T2VLoRA": T2VLoRA, "T2VSample": T2VSample}
NODE_DISPLAY_NAME_MAPPINGS = {
    "T2VModel": "t2v: model",
    "T2VLoRA": "t2v: LoRA",
    "T2VSample": "t2v: sample",
}
