"""Conversion of Wan text-to-video pipeline folders to ours: the same weights under our classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from t2v.config.sampling import ConvertConfig
from t2v.errors import UserError
from t2v.io.files import complete, locked
from t2v.io.text_files import read_json
from t2v.models.finite import is_finite
from t2v.models.load import loading, variant_of
from t2v.models.transformer import T2VTransformer3DModel

_COMPONENTS = {  # name in model_index.json -> the classes that T2VPipeline can use there
    "transformer": ("WanTransformer3DModel",),
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast", "TokenizersBackend"),
    "scheduler": (),  # any: all schedulers of diffusers are used in the same way
}
# sizes the weights were trained on, and the sampling settings of Wan's authors
_WAN_21: dict[str, float] = {"fps": 16, "height": 480, "width": 832, "num_frames": 81}
_WAN_22_5B: dict[str, float] = {"fps": 24, "height": 704, "width": 1280, "num_frames": 121}
_SAMPLING = {"num_inference_steps": 50, "guidance_scale": 5.0, "max_sequence_length": 512}


def convert(config: ConvertConfig) -> Path:
    """`t2v convert`: convert `config.src` and return the new folder; see `convert_wan_pipeline`."""
    convert_wan_pipeline(config.src, config.dst)
    return Path(config.dst).resolve()


def convert_wan_pipeline(src_folder: str | Path, dst_folder: str | Path) -> None:
    """Copy a Wan pipeline folder (diffusers layout) to `dst_folder` as a `T2VPipeline` folder.

    The transformer's weights are copied unchanged, since `T2VTransformer3DModel` uses Wan's
    names; VAE, text encoder, tokenizer and scheduler keep their classes. `dst_folder` appears
    complete or not at all.

    Raises:
        UserError: no such folder, not a Wan text-to-video pipeline, or `dst_folder` exists.
    """
    src, dst = Path(src_folder), Path(dst_folder)
    if dst.exists():
        raise UserError(f"{dst} already exists. Remove it or give another folder.")
    index = _read_json(src / "model_index.json")
    _check_index(index, src)
    config = _read_json(src / "transformer" / "config.json")
    _check_weights(config, src / "transformer")
    for name in _COMPONENTS:
        _check_numbers(src / name)

    dst.parent.mkdir(parents=True, exist_ok=True)
    with locked(dst, command="t2v convert"), complete(dst) as partial:
        _copy(src, partial, index, config)


def _copy(src: Path, partial: Path, index: dict[str, Any], config: dict[str, Any]) -> None:
    partial.mkdir()
    for name in _COMPONENTS:
        shutil.copytree(src / name, partial / name)
        _as_plain(partial / name)
    transformer = T2VTransformer3DModel
    config["_class_name"] = transformer.__name__
    _write_json(partial / "transformer" / "config.json", config)
    components = {name: index[name] for name in _COMPONENTS}
    # the package, not the module: diffusers' download takes no library that it does not know
    components["transformer"] = ["t2v", transformer.__name__]
    names = {"_class_name": "T2VPipeline", "_diffusers_version": index.get("_diffusers_version")}
    sizes = _WAN_22_5B if index.get("expand_timesteps") else _WAN_21
    _write_json(partial / "model_index.json", names | components | sizes | _SAMPLING)


def _check_index(index: dict[str, Any], src: Path) -> None:
    pipeline = index.get("_class_name")
    if pipeline != "WanPipeline":
        raise UserError(
            f"{src} holds a {pipeline}; only text-to-video pipelines of Wan (WanPipeline) can be "
            "converted. Image-to-video, VACE and Animate ones have parts that are not supported."
        )
    if (index.get("transformer_2") or [None])[0] is not None:
        raise UserError(
            f"{src} has two transformers (Wan 2.2 A14B), one for each half of the noise; this "
            "package supports only one. Use Wan 2.1, or Wan 2.2 TI2V-5B."
        )
    for name, classes in _COMPONENTS.items():
        found = (index.get(name) or [None, None])[1]
        if found is None or not (src / name).is_dir():
            raise UserError(f"{src} has no {name}. Download the whole pipeline folder.")
        if classes and found not in classes:
            raise UserError(
                f"{src}: {name} is a {found}; a text-to-video pipeline of Wan has "
                f"{' or '.join(classes)}. Give the folder of one that does."
            )


def _check_weights(config: dict[str, Any], folder: Path) -> None:
    """Compare the names and shapes in the files with those of our class, reading no weights."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no .safetensors file. Save the weights in that format.")
    found: dict[str, list[int]] = {}
    for file in files:
        with loading(str(file)), safe_open(file, framework="pt") as weights:
            found |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    with torch.device("meta"):
        model = T2VTransformer3DModel.from_config(config)
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} weights are missing, unknown or of another shape, "
            f"first {wrong[0]!r}. Is this a text-to-video Wan transformer with its own config.json?"
        )


def _check_numbers(folder: Path) -> None:
    """Raise `UserError` for a weight that is NaN or infinite; one is in memory at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with loading(str(file)), safe_open(file, framework="pt") as weights:
            bad = [name for name in weights.keys() if not is_finite(weights.get_tensor(name))]  # noqa: SIM118
        if bad:
            raise UserError(
                f"{file}: the weight {bad[0]} holds NaN or infinite values. Download it again."
            )


def _as_plain(folder: Path) -> None:
    """Rename weight files of a variant, `X.fp16.safetensors`, to the plain `X.safetensors`.

    Raises:
        UserError: there are several variants.
    """
    variant = variant_of(str(folder), folder)
    for file in sorted(folder.iterdir()) if variant else ():
        if f".{variant}" in file.name:
            plain = file.rename(file.with_name(file.name.replace(f".{variant}", "")))
            if plain.suffix == ".json":  # the list of shards
                plain.write_text(plain.read_text("utf-8").replace(f".{variant}", ""), "utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(
            f"{file} does not exist. Give the folder of a Wan pipeline in diffusers' layout, for "
            "example after `hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir wan`."
        )
    with loading(str(file)):
        return read_json(file)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
