"""The smallest trainings of a VAE and a transformer."""

import numpy as np
import pytest
import torch
from einops import rearrange

from t2v.config.models import TransformerConfig, VAEConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import OptimConfig, TrainDiTConfig, TrainVAEConfig
from t2v.io import video
from t2v.sampling import run

TINY_VAE = VAEConfig(
    latent_channels=8,
    patch_size=(4, 4, 4),
    block_out_channels=(16, 16),
    layers_per_block=1,
    spatial_downsample=(False,),
)
TINY_TRANSFORMER = TransformerConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=8,
    out_channels=8,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
)
STEADY = OptimConfig(warmup_steps=2, decay_from=1.0, lr=3e-3, adam_lr=3e-3, ema_decay=0.9)


@pytest.fixture
def sampled_later(monkeypatch, tmp_path):
    """Samples prompts with a checkpoint by `t2v sample`; gives the rows of a training's sheet."""
    rows = []
    write = video.write_video

    def watched(path, pieces, *rest):
        frames = np.concatenate(list(pieces))
        rows.append(rearrange(torch.from_numpy(frames), "t h w c -> h (t w) c"))
        write(path, frames, *rest)

    monkeypatch.setattr(video, "write_video", watched)

    def sample(checkpoint, seed, prompts):
        output = str(tmp_path / "video.mp4")
        settings = SampleConfig(model=str(checkpoint), seed=seed, output=output)
        run.sample(settings, prompts)
        return torch.cat(rows)

    return sample


@pytest.fixture
def vae_config(clips, tmp_path):
    return TrainVAEConfig(
        device="cpu", output=str(tmp_path / "vae"), data=str(clips), model=TINY_VAE, steps=4,
        batch_size=3, held_out=3, save_every=2, validate_every=4, image_ratio=0.4, optim=STEADY,
    )  # fmt: skip


@pytest.fixture
def dit_config(clips, tmp_path, vae, tokenizer, text_encoder):
    vae.save_pretrained(tmp_path / "model" / "vae")
    tokenizer.save_pretrained(tmp_path / "text" / "tokenizer")
    text_encoder.save_pretrained(tmp_path / "text" / "text_encoder")
    return TrainDiTConfig(
        device="cpu", output=str(tmp_path / "dit"), data=str(clips), vae=str(tmp_path / "model"),
        text=str(tmp_path / "text"), model=TINY_TRANSFORMER, steps=4, batch_size=3, held_out=3,
        save_every=2, validate_every=2, max_sequence_length=12, num_inference_steps=2,
        caption_dropout=0.3, prompts=("a red ball", "the blue ball"), optim=STEADY,
    )  # fmt: skip
