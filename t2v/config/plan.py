"""The settings of `t2v plan`, beside those of the command it plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """`t2v plan COMMAND`: the memory, time and disk that COMMAND will take with its settings."""

    # the command to plan; models: what fits of public models that are not here yet
    command: Literal["sample", "train", "train-vae", "finetune", "distill", "models"]
    height: int | None = None  # pixels; null: the model's own, or those of the first clip
    width: int | None = None  # pixels; null: the model's own, or those of the first clip
    num_frames: int | None = None  # null: the model's own, or those of the first clip
    clips: int | None = None  # clips in the data; null: as many as its manifest lists
    text_tokens: int | None = None  # of the longest caption; null: as many as the model takes
    tflops: float | None = None  # TFLOP/s that matrix products reach on a device that is not here
    bandwidth: float | None = None  # GB/s of that device's memory
    # GiB of a card, or that may be used here; null: what is free on this device. For a device that
    # is not here it also chooses the card whose speed is taken, if tflops is not given
    memory: float | None = None
    host_bandwidth: float = 25.0  # GB/s from main memory to the device; PCIe 4.0 x16 reaches 25
    calibrate: bool = False  # measure two micro-steps, of a quarter and of half the size
    verify: bool = False  # then run the planned step itself and show how far the plan was off

    def __post_init__(self) -> None:
        for name in ("height", "width", "num_frames", "clips", "text_tokens", "tflops"):
            self._positive(name)
        self._positive("bandwidth")
        self._positive("memory")
        self._positive("host_bandwidth")
        if (self.tflops is None) != (self.bandwidth is None):
            raise UserError(
                f"tflops={self.tflops} and bandwidth={self.bandwidth} name a device together: give "
                "both, such as tflops=790 bandwidth=4300 for an H200, or neither."
            )
        if self.tflops is not None and (self.calibrate or self.verify):
            raise UserError(
                "calibrate and verify measure the device at hand, and tflops names another one: "
                "leave one of the two out."
            )

    def _positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{name}={value}: it must be more than 0.")
