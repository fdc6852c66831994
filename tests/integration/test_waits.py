"""How often the CPU waits for the device: once a training step, never in a denoising step.

The meta device stands for a GPU: no number on it can be read, so every wait passes by the mode
that counts them, and what it does not know fails.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2v.config.models import UpscalerConfig
from t2v.config.training import DiscriminatorConfig, TasksConfig, TrainUpscalerConfig
from t2v.models.conditions import Conditions
from t2v.models.guidance import Guidance
from t2v.models.schedule import set_timesteps
from t2v.models.upscaler import VideoUpscaler
from t2v.pipelines.denoise import denoise
from t2v.training.engine.loop import fit, start_state
from t2v.training.tasks.dit import build_dit
from t2v.training.tasks.upscaler import UpscalerTask
from t2v.training.tasks.upscaler_data import Pair
from t2v.training.tasks.vae import build_vae

META = torch.device("meta")


class Waits(TorchDispatchMode):
    """Counts what is brought from the device to the CPU, and gives ones for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
        if any(each.is_meta for each in tensors):
            if func is torch.ops.aten._local_scalar_dense.default:
                self.count += 1
                return 1.0
            if func is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device(
                "cpu"
            ):
                self.count += 1
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)


class Windows:
    """Random windows in place of those of an upscaler's data."""

    def __init__(self):
        self.sources = {}

    def batch(self, step, rank, world_size):
        return Pair(torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 32, 32))


def dit(config):
    tasks = TasksConfig(first=1, frames=1, region=1)
    model = replace(config.model, conditioning="tokens")
    return build_dit(replace(config, tasks=tasks, model=model, train_text_encoder=False))


def vae(config):
    adversary = DiscriminatorConfig(weight=0.5, alone=1, width=4)
    return build_vae(replace(config, discriminator=adversary))


def upscaler(config):
    model = UpscalerConfig(width=8, layers=(1, 1, 1))
    settings = {"model": model, "window_frames": 3, "temporal_weight": 1.0}
    kept = {name: getattr(config, name) for name in ("device", "output", "steps", "optim", "data")}
    config = TrainUpscalerConfig(**kept, **settings, batch_size=2, precision="fp32")
    made = VideoUpscaler(scale=4, width=8, layers=(1, 1, 1), steadiness=0.0)
    return UpscalerTask(config, made, Windows())


@pytest.mark.parametrize(("build", "fixture"), [(dit, "dit"), (vae, "vae"), (upscaler, "vae")])
def test_a_training_step_waits_once(build, fixture, request, monkeypatch):
    config = replace(request.getfixturevalue(f"{fixture}_config"), steps=2, precision="fp32")
    task = build(config)
    task.prepare()
    config = task.config
    for place in ("tasks.dit", "tasks.vae", "tasks.upscaler", "engine.parallel"):
        monkeypatch.setattr(f"t2v.training.{place}.pick_device", lambda name: META)
    plain = torch.optim.AdamW  # the fused one knows no meta device; it waits for none
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, fused, **k: plain(*a, foreach=True, **k))
    state = start_state(task, config)
    assert all(p.is_meta for p in task.model.parameters())
    with Waits() as waits:
        for _ in fit(task, config, state):
            assert waits.count == state.step
    assert state.step == config.steps


def test_a_denoising_step_never_waits(pipe):
    waited = []
    pipe.transformer.to(META)
    guidance = Guidance(pipe.transformer, "sequential")
    positive, negative = (Conditions(text=torch.zeros(1, 5, 32, device=META)) for _ in range(2))
    for steps in (2, 3):
        set_timesteps(pipe.scheduler, steps, 12, None, META)
        latents = torch.zeros(1, 8, 3, 4, 6, device=META)
        pipe._guidance_scale, pipe._image_guidance_scale, pipe._interrupt = 3.0, 1.0, False
        with Waits() as waits:
            denoise(pipe, latents, positive, negative, guidance, [], None, None)
        waited.append(waits.count)
    assert waited[0] == waited[1] <= 1  # for the times of the run, before its first step
