"""The oracle of the world: a small network that classifies every attribute by the pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.errors import UserError
from t2v.models.convolution import Conv3d
from t2v.models.load import load_part
from t2v.world.labels import HEADS

FRAMES, SIDE = 17, 64  # of its input
STEP = FRAMES - 1  # from window to window: one begins with the last frame of the one before
# Heads that the first window of a clip answers: later, what moved or zoomed may have come to rest.
OF_THE_START = ("motion", "size", "camera")


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
            video: `b c t h w` in [-1, 1]; other than 17 frames of 64 x 64 are resampled, which
                changes speeds and shapes, so that attributes are for `logits`.
        """
        return self.answer(self.features(video))

    def features(self, video: Tensor) -> Tensor:
        """Summarise what the convolutions found and where, `b d`; `video` as for `forward`."""
        x = self.maps(video)[-1]  # b d 5 8 8
        halves = rearrange(x, "b d t h (side w) -> b (side d) t (h w)", side=2)
        x = torch.cat((halves.amax(-1), x.mean((3, 4))), dim=1)  # b 3d 5
        return rearrange(x, "b d t -> b (t d)")

    def answer(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of each head of `HEADS` by `features`."""
        x = self.read(features)
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

    def logits(self, video: Tensor) -> dict[str, Tensor]:
        """Logits of each head for clips of any length and size, `b c t h w` in [-1, 1].

        A clip is seen in windows of 17 frames, at its own rate. Motion, size and camera are read in
        the first one; of the other heads, log-probabilities are averaged over all.
        """
        seen = [self(window) for window in windows(fitted(video))]
        if len(seen) == 1:
            return seen[0]
        return {
            name: seen[0][name]
            if name.startswith(OF_THE_START)
            else torch.stack([each[name].log_softmax(-1) for each in seen]).mean(0)
            for name in HEADS
        }

    @torch.no_grad()
    def classify(self, video: Tensor) -> list[dict[str, str]]:
        """Return the class of each clip by each head, as `logits`: head name -> class name."""
        answers = {name: logits.argmax(-1).tolist() for name, logits in self.logits(video).items()}
        return [
            {name: HEADS[name][0][answers[name][i]] for name in HEADS} for i in range(len(video))
        ]


def _layer(inputs: int, outputs: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    convolution = Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm3d(outputs), nn.ReLU()]


def fitted(video: Tensor) -> Tensor:
    """Scale clips `b c t h w` to 64 rows and cut or continue them to 64 columns, unstretched.

    Sizes in the world are parts of the height. Of a wide frame the middle is seen, where all things
    are; a narrow one is continued by its outermost columns.
    """
    batch, height, width = len(video), *video.shape[3:]
    if (height, width) == (SIDE, SIDE):
        return video
    columns = round(SIDE * width / height)
    frames = rearrange(video, "b c t h w -> (b t) c h w")
    frames = F.interpolate(frames, (SIDE, columns), mode="bilinear", antialias=True)
    left = abs(columns - SIDE) // 2
    if columns > SIDE:
        frames = frames[..., left : left + SIDE]
    else:
        frames = F.pad(frames, (left, SIDE - columns - left, 0, 0), mode="replicate")
    return rearrange(frames, "(b t) c h w -> b c t h w", b=batch)


def windows(video: Tensor) -> list[Tensor]:
    """Cut clips `b c t h w` into 17 frames each, the last ones being the clip's last.

    The last frame of a shorter clip is held.
    """
    length = video.shape[2]
    if length < FRAMES:
        held = video[:, :, -1:].expand(-1, -1, FRAMES - length, -1, -1)
        return [torch.cat((video, held), dim=2)]
    firsts = [*range(0, length - FRAMES, STEP), length - FRAMES]
    return [video[:, :, first : first + FRAMES] for first in firsts]


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
