"""The models that clients may ask for: their names, and sizes as far as their files tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2v.config.visual_tasks import taken
from t2v.errors import UserError
from t2v.io.files import EMBEDDED_MODELS, require_model
from t2v.io.shipped import shipped
from t2v.io.text_files import read_json

NUMBERS = {  # of `model_index.json`, and what they are here
    "width": "width",
    "height": "height",
    "num_frames": "num_frames",
    "fps": "fps",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "max_sequence_length": "max_tokens",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that clients may ask for.

    Args:
        name: as clients know it, which tells no path.
        setting: `model` of its jobs: the embedded model, a whole path or a Hub id.
        width: of the videos that it makes by itself, in pixels; None where its files do not tell.
        height: likewise.
        num_frames: likewise, in frames.
        fps: likewise, a second.
        scale: times as large as its upscaler makes them; 1 without one.
        step: of the sides that it makes by itself, in pixels; 1 where its files do not tell.
        steps: denoising steps of its videos where none are asked for.
        guidance: likewise, the weight of the prompt.
        distilled_steps: of a student of `t2v distill`, all it takes; empty: it is none.
        takes: names of what it can be given beside a prompt, as `t2v sample` has them; None where
            its files do not tell.
        needs: those that it makes nothing without.
        sizes: of files that it was trained to make, as `256x256`.
        max_tokens: of a prompt.
        folder: of its files; None where they are not here.
        created: second since 1970 of its files; 0 where they are not here.
    """

    name: str
    setting: str
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    scale: int = 1
    step: int = 1
    steps: int | None = None
    guidance: float | None = None
    distilled_steps: tuple[int, ...] = ()
    takes: frozenset[str] | None = None
    needs: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    max_tokens: int | None = None
    folder: Path | None = None
    created: int = 0

    @property
    def size(self) -> str:
        """The size of its videos where none is asked for, as `256x256`, or `auto`."""
        if self.width is None or self.height is None:
            return "auto"
        return f"{self.width * self.scale}x{self.height * self.scale}"

    @property
    def seconds(self) -> float | None:
        """The length of its videos where none is asked for."""
        return self.num_frames / self.fps if self.num_frames and self.fps else None

    def made_at(self, width: int, height: int) -> dict[str, int]:
        """The settings of a video whose file has a size.

        It is enlarged to it, or made at it, whichever is nearer to what the model makes by itself.
        """
        plain = {"width": width, "height": height, "upscale": 1}
        if self.scale == 1 or width % self.scale or height % self.scale:
            return plain
        own = (self.width or 1) * (self.height or 1)
        if width * height <= own * self.scale:  # the ratio of areas is the smaller one, plain
            return plain
        return {
            "width": width // self.scale,
            "height": height // self.scale,
            "upscale": self.scale,
        }


def known(models: Sequence[str]) -> dict[str, Model]:
    """The models of an operator's list, by the names that clients know.

    Raises:
        UserError: one is not there, or two have one name.
    """
    found: dict[str, Model] = {}
    for given in models:
        model = _read(given)
        if model.name in found:
            raise UserError(
                f"models: {found[model.name].setting} and {given} would both be {model.name} to "
                "clients. Rename a folder, or leave one out."
            )
        found[model.name] = model
    return found


def _read(given: str) -> Model:
    require_model(given)
    if given in EMBEDDED_MODELS:
        folder = shipped(given, "model_index.json")
        return Model(name=given, setting=given, **({} if folder is None else _told(folder)))
    folder = Path(given)
    if not folder.exists():
        return Model(name=given, setting=given)  # of the Hub
    whole = folder.absolute()
    return Model(name=whole.name, setting=str(whole), **_told(whole))


def _step(folder: Path) -> int:
    """The pixels between two sides that a model of our kind or Wan's makes; of others 1."""
    space = _config(folder, "vae").get("scale_factor_spatial")
    patch = _config(folder, "transformer").get("patch_size")
    if isinstance(space, int) and isinstance(patch, list) and isinstance(patch[-1], int):
        return max(1, space * patch[-1])
    return 1


def _config(folder: Path, part: str) -> dict[str, Any]:
    file = folder / part / "config.json"
    values = read_json(file) if file.is_file() else None
    return values if isinstance(values, dict) else {}


def _told(folder: Path) -> dict[str, Any]:
    """The facts that the index of a pipeline folder tells of its videos."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"models: {folder} is no pipeline folder: it has no model_index.json.")
    values = read_json(index)
    values = values if isinstance(values, dict) else {}
    found: dict[str, Any] = {"created": int(index.stat().st_mtime), "step": _step(folder)}
    for name, own in NUMBERS.items():
        value = values.get(name)
        if isinstance(value, int | float) and value > 0:
            found[own] = value
    upscaler = folder / "upscaler" / "config.json"
    if upscaler.is_file():
        found["scale"] = int(read_json(upscaler).get("scale", 1))
    if values.get("_class_name") == "T2VPipeline":
        config = _config(folder, "transformer")
        conditioning = str(config.get("conditioning", "none"))
        steps = config.get("distilled_steps")
        found["distilled_steps"] = tuple(steps) if isinstance(steps, list) else ()
        pictures, references = bool(config.get("picture_tokens")), config.get("references", 0)
        found["takes"] = taken(conditioning, pictures, references, is_student=bool(steps))
        found["sizes"] = _trained(values.get("trained"), found.get("scale", 1))
    return found | {"folder": folder}


def _trained(shapes: Any, scale: int) -> tuple[str, ...]:
    """The sizes of files of trained shapes `[[frames, height, width], ...]`, each once."""
    found: dict[str, None] = {}
    for shape in shapes if isinstance(shapes, list) else ():
        match shape:
            case [_, int(height), int(width)]:
                found[f"{width * scale}x{height * scale}"] = None
    return tuple(found)
