"""Train a second decoder on the VAE's latents, and measure it as `upscale.py` does an upscaler.

python docs/figures/second_decoder.py DATA STEPS COUNT   DATA: a folder of `t2v world`
"""

from __future__ import annotations

import copy
import sys
import time

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from upscale import interval

from t2v.data.rng import keyed_generator, step_indices
from t2v.data.world_shards import pixels
from t2v.evaluation.metrics.upscaling import bicubic, measure
from t2v.evaluation.types import PerVideo
from t2v.models.causal import silu
from t2v.models.folder import embedded_model
from t2v.models.upscaler import UpscalerBlock
from t2v.models.upscaler import bicubic as smooth
from t2v.models.vae_folder import load_vae
from t2v.nets.discriminator import PatchDiscriminator
from t2v.nets.features import vae_frames
from t2v.training.losses.discriminator import adversarial_losses
from t2v.training.losses.perceptual import Perceptual
from t2v.training.tasks.upscaler import local_sharpness
from t2v.world.grammar import random_scene
from t2v.world.pairs import WorldPairs
from t2v.world.render import render
from t2v.world.run import clip_generator

WIDTH, POOL, CROP = 32, 64, 32


class SecondDecoder(nn.Module):
    """The VAE's own decoder, trained on, and beside its frames the features for larger ones."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(decoder)
        self.features = nn.Conv3d(96, WIDTH * 64, 1)
        self.blocks = nn.ModuleList(UpscalerBlock(WIDTH) for _ in range(4))
        self.enlarge = nn.ModuleList(
            nn.Conv2d(i, 4 * o, 3, padding=1) for i, o in ((WIDTH, WIDTH // 2), (WIDTH // 2, 8))
        )
        self.conv_out = nn.Conv2d(8, 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.seen: list[Tensor] = []
        self.trunk.conv_norm_out.register_forward_hook(lambda _, __, out: self.seen.append(out))

    def forward(self, z: Tensor, crop: tuple[int, int, int, int] = (0, 17, 0, 0)) -> Tensor:
        """The video of latents `b z t h w`, 4 times as large; of a crop: frames, top, left."""
        first, last, top, left = crop
        frames = self.trunk(z)
        grid = silu(self.seen.pop())
        patches = rearrange(
            self.features(grid), "b (c p q r) t h w -> b c (t p) (h q) (w r)", p=4, q=4, r=4
        )[:, :, 3:]  # the first latent is one frame
        side = CROP if last - first < 17 else frames.shape[-1]
        cut = (..., slice(first, last), slice(top, top + side), slice(left, left + side))
        x = rearrange(patches[cut], "b c t h w -> (b t) c h w")
        for block in self.blocks:
            x = block(x, len(z))
        for conv in self.enlarge:
            x = silu(F.pixel_shuffle(conv(x), 2))
        plain = rearrange(frames[cut].float(), "b c t h w -> (b t) c h w")
        large = smooth(plain, 4) + self.conv_out(x).float()
        return rearrange(large, "(b t) c h w -> b c t h w", b=len(z))


def main(data: str, steps: int, count: int) -> None:
    """Train, print the loss and the time, then the table beside bicubic interpolation."""
    vae = load_vae(embedded_model())
    torch.manual_seed(0)
    net, critic = SecondDecoder(vae.decoder), PatchDiscriminator(3, 32)
    perceptual = Perceptual("assets/world-oracle", "cpu")
    ours = torch.optim.AdamW(net.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=0)
    theirs = torch.optim.AdamW(critic.parameters(), 2e-4, betas=(0.5, 0.9))
    pairs, started = WorldPairs(data, 4), time.time()
    pool: list[tuple[Tensor, Tensor]] = []
    for step in range(steps):
        if step % POOL == 0:
            chosen = step_indices(6144, POOL, 0, step // POOL).tolist()
            pool = [pair for pair in (encoded(vae, pairs, index) for index in chosen) if pair]
        generator = keyed_generator(0, step, "windows")
        picks = torch.randint(len(pool), (2,), generator=generator).tolist()
        frame = int(torch.randint(9, (), generator=generator))
        top, left = torch.randint(64 - CROP + 1, (2,), generator=generator).tolist()
        z = torch.cat([pool[pick][0] for pick in picks])
        y, x = 4 * top, 4 * left
        window = [
            pool[pick][1][:, :, frame : frame + 9, y : y + 4 * CROP, x : x + 4 * CROP]
            for pick in picks
        ]
        real = torch.cat(window).float() / 127.5 - 1
        for group in ours.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 30) * min(1, (steps - step) / (0.6 * steps))
        with torch.autocast("cpu", torch.bfloat16):
            large = net(z, (frame, frame + 9, top, left))
        difference = large - real
        loss = difference.abs().mean()
        loss = loss + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        loss = loss + 0.5 * (local_sharpness(large) - local_sharpness(real)).abs().mean()
        loss = loss + difference.diff(dim=2).abs().mean()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss + 0.05 * perceptual(large, real).mean()
        if step >= steps // 2:  # a critic of blurred clips would learn nothing else
            game = adversarial_losses(critic, real, large)
            loss = loss + 2e-4 * game.generator
            theirs.zero_grad()
            (game.discriminator + 0.1 * game.r1).backward()
        ours.zero_grad()
        loss.backward()
        theirs.step()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        ours.step()
        if step % 50 == 0:
            error = difference.square().mean().item()
            sys.stderr.write(
                f"{step} {time.time() - started:.0f} s {loss.item():.4f} {error:.5f}\n"
            )
    compare(net.eval(), vae, count)


@torch.no_grad()
def encoded(vae: nn.Module, pairs: WorldPairs, index: int) -> tuple[Tensor, Tensor] | None:
    """The latents of a clip of 17 frames of 64x64, and the large clip `1 c t h w` uint8."""
    low, high = pairs.pair(index)
    if low.shape[:3] != (17, 64, 64):
        return None
    z = vae.encode(pixels(low[None])).latent_dist.mean
    return z, rearrange(high[None], "b t h w c -> b c t h w")


@torch.no_grad()
def compare(net: nn.Module, vae: nn.Module, count: int) -> None:
    """Print mean and 95 % interval of bicubic interpolation, the decoder, and the difference."""
    features = vae_frames(vae)
    found: dict[str, dict[str, list[Tensor]]] = {}
    for number in range(count):
        scene = random_scene(clip_generator(0, "heldout", number), "heldout")
        low, real = render(scene)[0][None], render(scene, 17, 256, 256)[0][None]
        z = vae.encode(pixels(low)).latent_dist.mean
        plain, large = (
            rearrange(
                ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8), "b c t h w -> b t h w c"
            )
            for video in (vae.decode(z).sample, net(z))
        )
        for name, video in {"bicubic": bicubic(plain, 4), "decoder": large}.items():
            distance = features.distance(video[:, ::16], real[:, ::16]).mean(1)
            measured = measure(video, real, None)
            measured["perceptual"] = PerVideo(distance, "lower", features.name)
            for metric, each in measured.items():
                found.setdefault(metric, {}).setdefault(name, []).append(each.values)
    for metric, each in found.items():
        values = {name: torch.cat(parts).double() for name, parts in each.items()}
        moves = values["bicubic"].isfinite() & values["decoder"].isfinite()
        values = {name: some[moves] for name, some in values.items()}
        values["difference"] = values["decoder"] - values["bicubic"]
        sys.stdout.write(f"| {' | '.join([metric, *map(interval, values.values())])} |\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
