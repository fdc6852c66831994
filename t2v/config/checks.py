"""The ranges and checks of settings of every kind."""

from __future__ import annotations

from typing import Any, Literal

from t2v.errors import UserError, shortened

# What `quantize` can name: number formats of weights, and networks.
Kind = Literal["none", "fp8", "int8", "nf4"]
KINDS: dict[str, Kind] = {"none": "none", "fp8": "fp8", "int8": "int8", "nf4": "nf4"}
NETWORKS = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "image_encoder")

# The range of every setting that has none of its own below: beyond, sizes overflow.
INTS = (0, 10**9)
FLOATS = (-1e9, 1e9)

# Tokens that are learned from all: their mixture has the square of as many weights, and a video
# that fits a card has hardly more of its own.
MOST_LEARNED = 4096

# By the whole name of a setting, or by its last part. Who needs more, as in a test of a cluster,
# says so here.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    # pixels and frames
    **dict.fromkeys(
        ("height", "width", "resolution", "short_side", "side", "max_side"), (1, 2**16)
    ),
    "min_side": (0, 2**16),
    **dict.fromkeys(("num_frames", "frames", "memory_frames", "lengths"), (1, 10**7)),
    # seconds, and frames in one
    "fps": (0.01, 1000),
    "duration": (0.0001, 1e7),
    **dict.fromkeys(("seconds_per_clip", "seconds_per_file", "timeout"), (0.001, 1e7)),
    **dict.fromkeys(("min_seconds", "max_seconds"), (0.01, 1e7)),
    "dissolve_seconds": (0, 1000),
    "durations": (0, 1e7),
    # what is done once for each
    **dict.fromkeys(("num_videos_per_prompt", "best_of", "draws", "seeds"), (1, 10**6)),
    **dict.fromkeys(("workers", "retries"), (0, 1000)),
    "clips.workers": (1, 1000),
    **dict.fromkeys(("num_inference_steps", "student_steps"), (1, 10**6)),
    **dict.fromkeys(("repeats", "warmup"), (0, 10**6)),
    "batch_size": (1, 2**30),
    **dict.fromkeys(("max_new_tokens", "max_tokens", "text_tokens"), (1, 2**20)),
    "max_sequence_length": (1, 2**20),
    # networks
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels", "channels"), (1, 2**16)),
    **dict.fromkeys(("block_out_channels", "text_dim", "dim", "attention_head_dim"), (1, 2**16)),
    **dict.fromkeys(("num_attention_heads", "heads", "rank"), (1, 2**12)),
    **dict.fromkeys(("ffn_dim", "freq_dim"), (2, 2**20)),
    **dict.fromkeys(("num_layers", "layers"), (1, 1000)),
    **dict.fromkeys(("layers_per_block", "decoder_layers_per_block"), (1, 1000)),
    **dict.fromkeys(("patch_size", "resample_taps"), (1, 64)),
    "layer": (-1000, 1000),
    "rope_max_seq_len": (1, 2**20),
    "learned_tokens": (0, MOST_LEARNED),
    "token_merging": (0, 0.75),  # every fourth token is one that others merge into
    "rope_theta": (1, 1e12),
    "eps": (0, 1),
    # training
    **dict.fromkeys(("lr", "adam_lr", "text_lr"), (0, 1000)),
    "discriminator.lr": (1e-9, 1000),
    **dict.fromkeys(("decay_from", "ema_decay", "caption_dropout"), (0, 1)),
    **dict.fromkeys(("weight_decay", "clip_norm"), (0, 1e6)),
    **dict.fromkeys(("mse_weight", "l1_weight", "kl_weight", "gradient_weight"), (0, 1e6)),
    **dict.fromkeys(("foreground_weight", "perceptual_weight", "weight", "r1"), (0, 1e6)),
    "shift": (0.001, 1000),
    "guidance_scale": (0, 1000),  # up to 1: no guidance
    **dict.fromkeys(("image_guidance_scale", "lora_scale"), (-1000, 1000)),
    "max_error": (1e-6, 10),  # from rounding to what is no longer the same video
    "min_psnr": (0.001, 98),  # dB; of equal frames, whose steps are of 1/255
    **dict.fromkeys(("codes.temperature", "codes.choice_temperature"), (0, 1000)),
    "codes.top_k": (0, 2**16),  # 0: all
    "codes.top_p": (1e-6, 1),
    # shares and cosines
    **dict.fromkeys(("image_ratio", "base_ratio", "masked"), (0, 1)),
    **dict.fromkeys(("min_match", "correlation"), (-1, 1)),
    "scale": (1, 1000),
    "tasks.frames": (0, 1e9),  # a share, not a number of frames
    # machines: GB, GiB, GB/s, TFLOP/s
    **dict.fromkeys(("memory_gb", "gigabytes_per_worker"), (0.001, 1e6)),
    **dict.fromkeys(("memory", "bandwidth", "tflops"), (0.000001, 1e9)),
}


def within_range(name: str, value: Any) -> None:
    """Raise `UserError` where a number, or one in a list, is not finite or out of range.

    Args:
        name: of the setting, dotted.
        value: of any type; what is no number is let be.
    """
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, bool) or not isinstance(each, int | float):
            continue
        own = RANGES.get(name) or RANGES.get(name.rpartition(".")[2])
        low, high = own or (INTS if isinstance(each, int) else FLOATS)
        if low <= each <= high:  # which NaN is not
            continue
        words = f"from {_number(low)} to {_number(high)}"
        if own is None and each == each:  # the other end may be another one, see `__post_init__`
            words = f"at most {_number(high)}" if each > high else f"at least {_number(low)}"
        elif own is None:
            words = "a number"
        raise UserError(f"{name}={shortened(each)}: it must be {words}.")


def _number(value: float) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else f"{value:,.12g}"


def at_least_one(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name}={getattr(config, name)}: it must be at least 1.")


def check_workers(config: Any) -> None:
    """Raise `UserError` where `workers` is no number of processes that hold a model."""
    if config.workers is not None and config.workers < 1:
        raise UserError(
            f"workers={config.workers}: it must be at least 1. Leave it out for this process "
            "alone, or on Ray for as many as there is room for."
        )


def not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name}={getattr(config, name)}: it must be 0 or more.")


def kinds_of(quantize: str) -> dict[str, Kind]:
    """The format of each network that a value of the setting names; of all others `""`.

    Raises:
        UserError: a format or a network is not known, or a network is named twice.
    """
    found: dict[str, Kind] = {}
    for each in quantize.split(","):
        part, _, kind = each.strip().rpartition("=")
        known = part in NETWORKS if "=" in each else "," not in quantize
        if kind not in KINDS or not known or part in found:
            raise UserError(
                f"quantize={shortened(quantize)}: give one of {', '.join(KINDS)} for all networks, "
                "or for each by its name, once, as in "
                f"quantize=text_encoder=nf4,transformer=fp8. Networks: {', '.join(NETWORKS)}."
            )
        found[part] = KINDS[kind]
    return found


def kind_of(quantize: str, part: str) -> Kind:
    """The format of one network: as it is named, else as the first of its kind, else as all."""
    kinds = kinds_of(quantize)
    names = (part, part.rpartition("_")[0], "")  # text_encoder_2 is as text_encoder
    return next((kinds[name] for name in names if name in kinds), "none")


def is_spread(config: Any) -> bool:
    """True where settings with `engine` and `workers` give work to others than this process."""
    return config.engine == "ray" or config.workers is not None


def check_interpolation(config: Any) -> None:
    """Raise `UserError` where a clip is not to be interpolated so, or to no length of its own."""
    if not 2 <= config.interpolate <= 100:
        raise UserError(
            f"interpolate={config.interpolate}: it must be from 2, which puts one frame between "
            "each two, to 100."
        )
    if config.duration is not None:
        raise UserError(
            f"duration={config.duration}: interpolate={config.interpolate} says how many frames "
            "there are. Leave duration out."
        )
