"""Conversion of Wan pipeline folders to ours: the same weights under our classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from t2v.config.upscale import ConvertConfig
from t2v.errors import UserError
from t2v.io.files import complete, locked
from t2v.models.conditions import Conditioning
from t2v.models.finite import is_finite
from t2v.models.folder import check_readable, read_object, standard_folder
from t2v.models.folder_check import check_folder, refuse_damaged_files
from t2v.models.load import loading, variant_of
from t2v.models.transformer import T2VTransformer3DModel

_TRANSFORMERS = ("WanTransformer3DModel",)
_COMPONENTS = {  # name in model_index.json -> the classes that T2VPipeline can use there
    "transformer": _TRANSFORMERS,
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast", "TokenizersBackend"),
    "scheduler": (),  # any: all schedulers of diffusers are used in the same way
}
_OPTIONAL = {
    "transformer_2": _TRANSFORMERS,  # of the later, less noisy times (Wan 2.2 A14B)
    "image_encoder": ("CLIPVisionModel",),  # Wan 2.1 I2V and FLF2V
    "image_processor": (),
}
# pipeline -> how known frames may enter its transformer
CONVERTIBLE: dict[str, tuple[Conditioning, ...]] = {
    "WanPipeline": ("none", "tokens"),
    "WanImageToVideoPipeline": ("channels", "tokens"),
}
# sizes the weights were trained on, and the sampling settings of Wan's authors
_WAN_21: dict[str, float] = {"fps": 16, "height": 480, "width": 832, "num_frames": 81}
_WAN_22_5B: dict[str, float] = {"fps": 24, "height": 704, "width": 1280, "num_frames": 121}
_SAMPLING = {"num_inference_steps": 50, "guidance_scale": 5.0, "max_sequence_length": 512}
_A14B = {  # of text and of pictures; the second scale is that of the later times
    "WanPipeline": {"num_inference_steps": 40, "guidance_scale": 4.0, "guidance_scale_2": 3.0},
    "WanImageToVideoPipeline": {"num_inference_steps": 40, "guidance_scale": 3.5},
}


def convert(config: ConvertConfig) -> Path:
    """`t2v convert`: convert `config.src` and return the new folder or file.

    Raises:
        UserError: see `convert_wan_pipeline` and `rename_lora`.
    """
    if config.names is not None:
        from t2v.models.lora_export import rename_lora  # pipelines need none

        rename_lora(config.src, config.dst, config.names)
    elif Path(config.src).is_file():
        raise UserError(
            f"src={config.src}: is a file. Give a pipeline folder; or names=comfyui or "
            "names=diffusers, if it is a LoRA whose tensors are to be renamed."
        )
    else:
        convert_wan_pipeline(config.src, config.dst)
    return Path(config.dst).resolve()


def convert_wan_pipeline(src_folder: str | Path, dst_folder: str | Path) -> None:
    """Copy a Wan pipeline folder (diffusers layout) to `dst_folder` as a `T2VPipeline` folder.

    The transformers' weights are copied unchanged, since `T2VTransformer3DModel` uses Wan's
    names; all other parts keep their classes. `dst_folder` appears complete or not at all.

    Raises:
        UserError: no such folder, not a Wan pipeline that makes video of text or of a picture, or
            `dst_folder` exists.
    """
    src, dst = standard_folder(Path(src_folder)), Path(dst_folder)
    if dst.exists():
        raise UserError(f"{dst} already exists. Remove it or give another folder.")
    index = _read_json(src / "model_index.json")
    check_folder(f"src={src}", src)
    refuse_damaged_files(f"src={src}", src)
    names = _components(index, src)
    configs = {
        name: _our_config(src, name, index)
        for name in names
        if name in ("transformer", "transformer_2")
    }
    for name, config in configs.items():
        _check_weights(config, src / name)
    for name in names:
        _check_numbers(src / name)

    dst.parent.mkdir(parents=True, exist_ok=True)
    with locked(dst, command="t2v convert"), complete(dst) as partial:
        partial.mkdir()
        for name in names:
            shutil.copytree(src / name, partial / name)
            _as_plain(partial / name)
        entries = {name: index[name] for name in names}
        for name, config in configs.items():
            _write_json(partial / name / "config.json", config)
            # the package, not the module: diffusers' download takes no library it does not know
            entries[name] = ["t2v", config["_class_name"]]
        _write_json(partial / "model_index.json", _settings(index) | entries)


def convert_configs(src: Path, dst: Path) -> None:
    """Write the config files alone of what `convert_wan_pipeline` makes of a folder.

    Raises:
        UserError: see `convert_wan_pipeline`.
    """
    index = _read_json(src / "model_index.json")
    found = [name for name in (*_COMPONENTS, *_OPTIONAL) if (src / name / "config.json").is_file()]
    configs = {
        name: _our_config(src, name, index)
        if name.startswith("transformer")
        else _read_json(src / name / "config.json")
        for name in found
    }
    for name, config in configs.items():
        (dst / name).mkdir(parents=True)
        _write_json(dst / name / "config.json", config)
    entries = {
        name: ["t2v", each["_class_name"]]
        for name, each in configs.items()
        if name.startswith("transformer")
    }
    known = {name: index[name] for name in configs if name in index}
    _write_json(dst / "model_index.json", _settings(index) | known | entries)


def _settings(index: dict[str, Any]) -> dict[str, Any]:
    """The entries of our `model_index.json` beside its components."""
    names = {"_class_name": "T2VPipeline", "_diffusers_version": index.get("_diffusers_version")}
    sizes = _WAN_22_5B if index.get("expand_timesteps") else _WAN_21
    settings = names | sizes | _SAMPLING
    if _is_there(index, "transformer_2"):
        settings |= _A14B[index["_class_name"]] | {"boundary_ratio": index["boundary_ratio"]}
    return settings


def _is_there(index: dict[str, Any], name: str) -> bool:
    return (index.get(name) or [None])[0] is not None


def _components(index: dict[str, Any], src: Path) -> list[str]:
    """The names of the parts to take, each of a class that `T2VPipeline` can use."""
    pipeline = index.get("_class_name")
    if pipeline not in CONVERTIBLE:
        raise UserError(
            f"{src} holds a {pipeline}; only {' and '.join(CONVERTIBLE)} can be converted. VACE, "
            "Animate and other models have parts that are not supported."
        )
    names = [*_COMPONENTS, *(name for name in _OPTIONAL if _is_there(index, name))]
    for name in names:
        found = (index.get(name) or [None, None])[1]
        classes = (_COMPONENTS | _OPTIONAL)[name]
        if found is None or not (src / name).is_dir():
            raise UserError(f"{src} has no {name}. Download the whole pipeline folder.")
        if classes and found not in classes:
            raise UserError(
                f"{src}: {name} is a {found}; a {pipeline} has "
                f"{' or '.join(classes)}. Give the folder of one that does."
            )
    ratio = index.get("boundary_ratio")
    if "transformer_2" in names and not isinstance(ratio, int | float):
        raise UserError(
            f"{src} has two transformers and boundary_ratio={ratio}; it should be a number from 0 "
            "to 1, the time at which the second takes over. Download model_index.json again."
        )
    return names


def _our_config(src: Path, name: str, index: dict[str, Any]) -> dict[str, Any]:
    """The settings of a transformer of ours with the weights of the folder `name`."""
    config = _read_json(src / name / "config.json")
    vae = _read_json(src / "vae" / "config.json")
    if config.get("image_dim") is not None and not _is_there(index, "image_encoder"):
        raise UserError(
            f"{src} has no image_encoder, but its {name} reads what one makes of a picture. "
            "Download the whole pipeline folder."
        )
    inputs, latents = config.get("in_channels", 16), vae.get("z_dim", 16)
    kind: Conditioning | None = None
    if inputs == latents:
        kind = "tokens" if index.get("expand_timesteps") else "none"
    elif inputs == 2 * latents + vae.get("scale_factor_temporal", 4):
        kind = "channels"
    if kind not in CONVERTIBLE[index["_class_name"]]:
        raise UserError(
            f"{src}: {name} reads {inputs} channels and latents have {latents}. A WanPipeline "
            "reads those alone; a WanImageToVideoPipeline also a mask and known latents, or it has "
            "expand_timesteps=true. Other models cannot be converted."
        )
    return config | {"_class_name": T2VTransformer3DModel.__name__, "conditioning": kind}


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
            f"first {wrong[0]!r}. Is this a Wan transformer with its own config.json?"
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
    check_readable(file, f"src={file.parent}")
    if not file.exists():
        raise UserError(
            f"{file} does not exist. Give the folder of a Wan pipeline in diffusers' layout, for "
            "example after `hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir wan`."
        )
    return read_object(file)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
