"""Presets of LoRAs that make a model need few steps: the numbers that their authors sample with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoRAPreset:
    """The settings of one; those that the user gives win over them.

    Args:
        source: where the numbers are from.
    """

    num_inference_steps: int
    guidance_scale: float
    shift: float
    source: str


LORA_PRESETS: dict[str, LoRAPreset] = {
    "wan21-lightx2v": LoRAPreset(
        num_inference_steps=4,
        guidance_scale=1.0,
        shift=5.0,
        source="ModelTC/LightX2V configs/distill/wan21/wan_t2v_distill_lora_4step_cfg.json",
    ),
    # two files, of high and of low noise
    "wan22-lightx2v": LoRAPreset(
        num_inference_steps=4,
        guidance_scale=1.0,
        shift=5.0,
        source="ModelTC/LightX2V configs/distill/wan22/wan_moe_t2v_distill_lora.json",
    ),
    "causvid": LoRAPreset(
        num_inference_steps=9,
        guidance_scale=1.0,
        shift=8.0,
        source="ModelTC/LightX2V configs/causvid/wan_t2v_causvid.json",
    ),
}
