"""Tiny but real parts, every parameter woken with noise, and random states put back."""

import gc
import json
import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from einops import rearrange
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from t2v.config.models import VAEConfig
from t2v.footage.frames import iter_frames
from t2v.io.video import write_video
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.vae import AutoencoderKLT2V
from t2v.pipelines.t2v import T2VPipeline

# Several processes of tests share the cores, and so do the commands that they start.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, (os.cpu_count() or 1) // WORKERS)
torch.set_num_threads(min(THREADS, torch.get_num_threads()))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
# Bits are compared between machines and with records: no probe may choose them.
os.environ["T2V_KERNELS"] = "plain"
# What is imported by now stays: to look through it again and again took a tenth of the tests.
gc.freeze()

WORDS = re.findall(r"\S+", "a red blue ball box rolls bounces on the grass snow under sky , .")
TEXT_DIM = 32


@pytest.fixture(autouse=True)
def restored_random_states() -> Iterator[None]:
    """Every test draws the same in every run, and none sees what another drew."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@torch.no_grad()
def woken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode with noise on every parameter: fresh zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.add_(noise.to(parameter), alpha=fan_in**-0.5)
    return module.eval()


@pytest.fixture
def wake() -> Callable[..., nn.Module]:
    """`woken`, for the modules of other packages."""
    return woken


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of `WORDS`, an end mark, and `<unk>` for everything else."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def text_encoder() -> T5EncoderModel:
    """Width `TEXT_DIM`, no dropout."""
    config = T5Config(
        vocab_size=len(WORDS) + 3,
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return woken(T5EncoderModel(config))


@pytest.fixture
def transformer() -> T2VTransformer3DModel:
    """Two blocks of width 32 on 8 latent channels."""
    model = T2VTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=8,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    )
    return woken(model, seed=1)


@pytest.fixture
def vae() -> AutoencoderKLT2V:
    """4 x 8 x 8, 8 latent channels of unequal mean and spread."""
    config = VAEConfig(
        latent_channels=8,
        patch_size=(2, 4, 4),
        block_out_channels=(16, 16),
        layers_per_block=1,
        temporal_downsample=(True,),
        spatial_downsample=(True,),
    )
    spread = {
        "latents_mean": [i / 8 for i in range(8)],
        "latents_std": [1 + i / 8 for i in range(8)],
    }
    return woken(AutoencoderKLT2V(**asdict(config), **spread), seed=2)


@pytest.fixture
def components(tokenizer, text_encoder, transformer, vae) -> dict[str, object]:
    """Everything `T2VPipeline` is made of."""
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


@pytest.fixture
def pipe(components) -> T2VPipeline:
    """A pipeline whose saved settings make a call take a fraction of a second."""
    pipe = T2VPipeline(
        **components,
        fps=8,
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=2,
        guidance_scale=4.0,
        max_sequence_length=12,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def clip_folder(tokenizer, tmp_path) -> str:
    """A CLIP of random weights that takes 32 x 32."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
            "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2}  # fmt: skip
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    tokenizer.model_max_length = 16
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    model.save_pretrained(tmp_path / "clip")
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A finished folder: 12 clips in two shards, 5 smooth frames of 16 x 32, two captions each."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(12, 3, 2, 4, 8, generator=generator)
    video = nn.functional.interpolate(coarse, size=(5, 16, 32), mode="trilinear") * 255
    video = rearrange(video, "n c t h w -> n t h w c").contiguous().to(torch.uint8)
    mask = torch.zeros(12, 5, 16, 32, dtype=torch.uint8)
    mask[:, :, 4:12, 4:12] = 255
    folder, rows = tmp_path / "clips", []
    folder.mkdir()
    for shard, span in (("clips-00000.safetensors", 0), ("clips-00001.safetensors", 6)):
        tensors = {"video": video[span : span + 6].clone(), "mask": mask[span : span + 6].clone()}
        save_file(tensors, folder / shard)
        rows += [{"shard": shard, "index": index} for index in range(6)]
    for number, row in enumerate(rows):
        colour = ("red", "blue")[number % 2]
        captions = [f"a {colour} ball rolls on the grass", f"the {colour} ball"]
        row |= {"caption": captions[0], "captions": captions, "truth": {}}
        row |= {"fps": 8, "height": 16, "width": 32, "num_frames": 5}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def moving(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth frames that brighten with time, `t h w c`."""
    ramp = np.linspace(20, 200, count)[:, None, None, None]
    across = np.linspace(0, 40, width)[None, None, :, None]
    tint = np.random.default_rng(seed).integers(0, 15, 3)[None, None, None, :]
    return (np.zeros((count, height, width, 3)) + ramp + across + tint).astype(np.uint8)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder of captioned media: 6 wide videos, 3 tall ones, 1 short one, 2 pictures."""
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(9):
        height, width = (48, 80) if number < 6 else (80, 48)
        write_video(folder / f"{number}.mp4", moving(12, height, width, number), 8)
        (folder / f"{number}.txt").write_text("a red ball rolls\nthe red ball\n")
    write_video(folder / "short.mp4", moving(6, 48, 80), 8)
    (folder / "short.txt").write_text("a blue ball\n")
    for name in ("one.png", "two.jpg"):
        Image.fromarray(moving(1, 64, 64)[0]).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("a box on the snow\n")
    return folder


def turned(path: Path) -> None:
    """Write a quarter turn clockwise into the display matrix of an mp4."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    unit = 0x10000
    data[place : place + 36] = struct.pack(">9i", 0, unit, 0, -unit, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def encode(path: Path, frames: np.ndarray, times: list[int], pixels: str = "yuv420p") -> None:
    """Write `frames` shown at `times`, in eighths of a second."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"bf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 8)
        for time, array in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = time, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def sound(path: Path) -> None:
    """Write an mp4 with a second of silence and no picture."""
    with av.open(path, "w") as file:
        stream = file.add_stream("aac", rate=8000)
        for first in range(0, 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, first
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.fixture
def awkward(media: Path) -> Path:
    """A manifest of good, unusual and broken files, each captioned; the name says what is wrong."""
    folder = media
    whole = (folder / "0.mp4").read_bytes()
    broken = {
        "truncated": whole[:500],  # amid the table of its frames, which comes first
        "random": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
        "empty": b"",
        "text": b"this is no video\n" * 50,
    }
    for name, content in broken.items():
        (folder / f"{name}.mp4").write_bytes(content)
    sound(folder / "sound.mp4")
    encode(folder / "turned.mp4", moving(12, 80, 48), list(range(12)))
    turned(folder / "turned.mp4")
    encode(folder / "variable.mp4", moving(9, 48, 80), [0, 1, 2, 3, 6, 7, 8, 9, 12])
    encode(folder / "ten_bit.mp4", moving(12, 48, 80), list(range(12)), "yuv420p10le")
    encode(folder / "single.mp4", moving(1, 48, 80), [0])
    write_video(folder / "small.mp4", moving(12, 16, 16), 8)
    write_video(folder / "slow.mp4", moving(12, 48, 80), 2)
    names = [*broken, "sound", "turned", "variable", "ten_bit", "single", "small", "slow", "gone"]
    rows = [{"path": f"{name}.mp4", "caption": "a red ball"} for name in [*names, "0", "1"]]
    rows += [
        {"path": "2.mp4", "caption": ""},
        {"path": "3.mp4", "caption": "a red ball " * 9},
        {"path": "4.mp4", "caption": "a red ball", "sha256": "0" * 64},
        {
            "path": "5.mp4",
            "caption": "a red ball",
            "dropped": "motion",
            "reason": "it stands still",
        },
        {"path": "5.mp4", "caption": "a red ball", "start": 9.0},
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def read_frames() -> Callable[..., np.ndarray]:
    """The frames of `iter_frames` in one array, `t h w c` uint8."""

    def read(path: str | Path, *span: float, **options: Any) -> np.ndarray:
        return np.stack([frame for _, frame in iter_frames(path, *span, **options)])

    return read


@pytest.fixture(scope="session")
def mangled() -> Callable[[bytes, random.Random], bytes]:
    """Damages a safetensors file at random: its length, its header or its numbers."""
    return _mangled


def _mangled(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with some of its header or its length wrong, cut or full of noise."""
    data = bytearray(content)
    header = 8 + int.from_bytes(data[:8], "little")
    kind = chance.choice(["flip", "flip body", "cut", "length", "noise", "dtype", "shape", "name"])
    if kind == "flip":
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(header)] ^= 1 << chance.randrange(8)
    elif kind == "flip body":
        for _ in range(chance.randint(1, 50)):
            data[chance.randrange(header, len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(len(data)) :]
    elif kind == "length":
        data[:8] = chance.choice([0, 1, header * 7, 2**40, 2**64 - 1]).to_bytes(8, "little")
    elif kind == "noise":
        data = bytearray(chance.randbytes(chance.randint(0, 500)))
    elif kind == "dtype":
        odd = chance.choice([b"I32", b"F64", b"BF1", b"U8 ", b"BOO", b"F16"])
        data = data.replace(b"F32", odd, chance.choice([1, -1]))
    elif kind == "shape":
        data = data.replace(b"[4,32]", chance.choice([b"[32,4]", b"[128] ", b"[0,99]", b"[-1,1]"]))
    else:
        data = data.replace(
            b"lora_A", chance.choice([b"lora_B", b"lora_Z", b"alpha\\", b"\xff" * 6])
        )
    return bytes(data)


@pytest.fixture(scope="session")
def scene() -> Callable[..., np.ndarray]:
    """Makes film, `t h w c` uint8: a textured place, a camera, a ball, grain; all by `seed`."""
    return _scene


def _scene(
    seed: int,
    length: int,
    *,
    pan: float = 0.0,
    ball: float = 3.0,
    zoom: float = 0.0,
    shake: float = 0.0,
    size: tuple[int, int] = (144, 256),
) -> np.ndarray:
    """`pan` and `ball` in pixels a frame, `zoom` in shares a frame, `shake` a deviation."""
    generator = np.random.default_rng(seed)
    height, width = size
    place = _texture(generator, 2 * height, 4 * width)
    reach = place.shape[1] - width - 1
    begin, level = generator.random(2) * (reach, height - 1)
    centre, colour = generator.random(2) * (width, height), generator.random(3) * 255
    frames = []
    for step in range(length):
        across, down = generator.normal(size=2) * shake
        x = (begin + pan * step + across) % (2 * reach)  # turns round at the edge of the place
        x, y = min(x, 2 * reach - x), float(np.clip(level + down, 0, height - 1))
        side = width * (1 - zoom) ** step, height * (1 - zoom) ** step
        middle = x + width / 2, y + height / 2
        rounded = max(2, round(side[0])), max(2, round(side[1]))
        frame = cv2.resize(cv2.getRectSubPix(place, rounded, middle), (width, height))
        at = int(centre[0] + ball * step) % width, int(centre[1])
        frame = cv2.circle(frame, at, height // 8, colour.tolist(), -1)
        frame = frame + generator.normal(size=(height, width, 1)) * 2
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def _texture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Spots of all sizes and colours, `h w c` float in 0 to 255."""
    place = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((160, 1.0), (48, 0.6), (12, 0.4)):
        spots = generator.random((height // cell + 2, width // cell + 2, 3), np.float32)
        place += weight * cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    place -= place.min()
    return 20 + 200 * place / place.max()


@pytest.fixture
def wan(tokenizer: PreTrainedTokenizerFast) -> WanPipeline:
    """A tiny pipeline of another package, untrained."""
    config = UMT5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(config).eval(),
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
