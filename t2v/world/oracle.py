"""The oracle of the world: a small network that classifies every attribute by the pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.config.load import save_config
from t2v.config.world import WorldOracleConfig
from t2v.data.world_shards import load_clips, pixels, read_rendered
from t2v.errors import UserError
from t2v.io.progress import Progress
from t2v.models.device import check_memory
from t2v.models.load import load_part
from t2v.outputs import output_folder
from t2v.world.labels import HEADS, labels

FRAMES, SIDE = 17, 64  # of its input; other clips are resampled


class WorldOracle(ModelMixin, ConfigMixin):
    """A classifier of background, camera, count and each thing's shape, colour, size and motion.

    Convolutions find local change; the maximum over each half of each frame group finds the things
    wherever they are and keeps the left one apart from the right one.
    """

    @register_to_config
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(48 + 3, width, (1, 1, 1)),
            *_layer(width, width, (1, 1, 1)),
            *_layer(width, 2 * width, (2, 2, 2)),
            *_layer(2 * width, 3 * width, (1, 1, 1)),
            *_layer(3 * width, 4 * width, (2, 1, 1)),
        )
        self.read = nn.Sequential(
            nn.Linear(5 * 12 * width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.1)
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(512, len(classes)) for name, (classes, _) in HEADS.items()}
        )

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Logits of each head of `HEADS`.

        Args:
            video: `b c t h w` in [-1, 1], any length and size.
        """
        x = self.maps(video)[-1]  # b d 5 8 8
        halves = rearrange(x, "b d t h (side w) -> b (side d) t (h w)", side=2)
        x = torch.cat((halves.amax(-1), x.mean((3, 4))), dim=1)  # b 3d 5
        x = self.read(rearrange(x, "b d t -> b (t d)"))
        return {name: head(x) for name, head in self.heads.items()}

    def maps(self, video: Tensor) -> list[Tensor]:
        """Return the output of each convolution, `b d t y x`; `video` is as `forward` takes it."""
        if video.shape[2:] != (FRAMES, SIDE, SIDE):
            video = F.interpolate(video, (FRAMES, SIDE, SIDE), mode="trilinear")
        x = rearrange(video, "b c t (h p) (w q) -> b (c p q) t h w", p=4, q=4)
        axes = [torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[2:]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(x), -1, -1, -1, -1)
        x = torch.cat((x, places), dim=1).contiguous(memory_format=torch.channels_last_3d)
        maps = []
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps

    @torch.no_grad()
    def classify(self, video: Tensor) -> list[dict[str, str]]:
        """Return the class of each clip by each head: head name -> class name."""
        answers = {name: logits.argmax(-1).tolist() for name, logits in self(video).items()}
        return [
            {name: HEADS[name][0][answers[name][i]] for name in HEADS} for i in range(len(video))
        ]


def _layer(inputs: int, outputs: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    convolution = nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm3d(outputs), nn.ReLU()]


def load_oracle(folder: str) -> WorldOracle:
    """Load the oracle in a folder, ready to read clips.

    Raises:
        UserError: it is not there, or it is damaged.
    """
    if not Path(folder, "config.json").is_file():
        raise UserError(
            f"{folder} holds no oracle. Train one: t2v world oracle output={folder} data=CLIPS"
        )
    return load_part(f"oracle={folder}", WorldOracle, folder).eval()


def train_oracle(config: WorldOracleConfig) -> None:
    """Train the oracle on the clips of `config.data`; leaves a model folder in `config.output`.

    Raises:
        UserError: see `output_folder`, `load_clips` and `check_memory`.
    """
    with output_folder(config) as config:
        videos = load_clips(config.data).video
        truth = labels([clip.extra["truth"] for clip in read_rendered(config.data)])
        save_config(config, Path(config.output) / "config.yaml")
        _trained(config, videos, truth).save_pretrained(config.output)


def _trained(config: WorldOracleConfig, videos: Tensor, truth: dict[str, Tensor]) -> WorldOracle:
    batch = 4 * videos[0].numel() * config.batch_size
    check_memory(f"batch_size={config.batch_size}", batch, torch.device("cpu"), "Give less.")
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        oracle = WorldOracle(width=48)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    with Progress(config.steps, "train", "steps") as bar:
        for _ in range(config.steps):
            chosen = torch.randint(len(videos), (config.batch_size,), generator=generator)
            video = _soften(pixels(videos[chosen]), generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = oracle(video)
            losses = {
                name: F.cross_entropy(logits[name].float(), truth[name][chosen], ignore_index=-1)
                for name in HEADS
            }
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            schedule.step()
            worst = max(losses, key=lambda name: losses[name].item())
            bar.update(worst=f"{worst} {losses[worst].item():.3f}")
    return oracle.eval()


def _soften(video: Tensor, generator: torch.Generator) -> Tensor:
    """Add blur and noise of a random strength for the batch: generated clips are less crisp."""
    blur, noise = torch.rand(2, generator=generator).tolist()
    blurred = F.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    noisy = 0.06 * noise * torch.randn(video.shape, generator=generator)
    return video.lerp(blurred, 0.7 * blur) + noisy
