"""The video tower of a scorer as an encoder of transformers, and captioners built on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPImageProcessor,
    CLIPProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from t2v.config.captioner import DecoderConfig
from t2v.errors import UserError
from t2v.models.load import load_part, quiet_bars, quiet_warnings
from t2v.nets.scorer import FRAMES, SIDE, ScorerTowers, is_scorer

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
OF_TEXTS = ("video_head", "text_head", "scale", "bias")  # parts of the towers that compare
GREY = [0.5, 0.5, 0.5]  # mean and deviation that bring pixels to [-1, 1]


class VideoTowerConfig(PreTrainedConfig):
    """The sizes of a `VideoTower`: those of `ScorerTowers`, and the frames it looks at."""

    model_type = "t2v_video_tower"

    channels: int = 48
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    num_frames: int = FRAMES
    image_size: int = SIDE


class VideoTower(PreTrainedModel):
    """The sight of `ScorerTowers`, as an encoder that transformers can load.

    CLIP4Caption (arXiv 2110.06615) learns to tell which text belongs to which video first, and
    lets a decoder put into words what that network sees.
    """

    config_class = VideoTowerConfig
    config: VideoTowerConfig
    main_input_name = "pixel_values"
    base_model_prefix = "video_tower"

    def __init__(self, config: VideoTowerConfig) -> None:
        super().__init__(config)
        sizes = {"channels": config.channels, "layers": config.layers, "heads": config.heads}
        self.towers = ScorerTowers(**sizes, width=config.hidden_size, dim=1, text_dim=1)
        for name in OF_TEXTS:
            delattr(self.towers, name)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Return `last_hidden_state`, `b n d`, of videos `b t c h w` in [-1, 1]."""
        video = rearrange(pixel_values, "b t c h w -> b c t h w")
        return BaseModelOutput(last_hidden_state=self.towers.read_video(video))


AutoConfig.register(VideoTowerConfig.model_type, VideoTowerConfig)
AutoModel.register(VideoTowerConfig, VideoTower)


def load_tower(folder: str) -> VideoTower:
    """Return the video tower of the scorer in `folder`.

    Raises:
        UserError: there is no scorer, or it is damaged.
    """
    if not is_scorer(folder):
        raise UserError(
            f"encoder={folder}: holds no scorer, whose video tower is what a captioner sees with. "
            f"Train one on the same clips: t2v scorer output={folder}"
        )
    towers = load_part(f"encoder={folder}", ScorerTowers, Path(folder, "towers"))
    sizes = {name: towers.config[name] for name in ("channels", "layers", "heads")}
    tower = VideoTower(VideoTowerConfig(**sizes, hidden_size=towers.config.width))
    own = tower.towers.state_dict()
    given = {name: tensor.float() for name, tensor in towers.state_dict().items() if name in own}
    tower.towers.load_state_dict(given)
    return tower


def build_tokenizer(captions: Iterable[str], vocabulary: int, longest: int) -> Any:
    """Train a fast BPE tokenizer of bytes on captions: it can spell any text.

    Args:
        captions: what it is trained on.
        vocabulary: most tokens; 256 are bytes.
        longest: tokens of the longest text it is used for.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (BEGIN, END)]
    tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END,
        model_max_length=longest, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_captioner(
    tower: VideoTower, tokenizer: PreTrainedTokenizerFast, config: DecoderConfig, seed: int
) -> VisionEncoderDecoderModel:
    """Return a GPT-2 with new weights that reads what the tower sees by cross-attention."""
    quiet_bars()
    quiet_warnings()
    marks = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global source
        torch.manual_seed(seed)
        decoder = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer), n_positions=config.max_tokens, n_embd=config.width,
                n_layer=config.layers, n_head=config.heads, add_cross_attention=True,
                resid_pdrop=config.dropout, embd_pdrop=config.dropout, attn_pdrop=0.0, **marks,
            )
        )  # fmt: skip
        captioner = VisionEncoderDecoderModel(encoder=tower, decoder=decoder)
    captioner.config.decoder_start_token_id = tokenizer.bos_token_id
    captioner.config.pad_token_id = tokenizer.pad_token_id
    captioner.config.eos_token_id = tokenizer.eos_token_id
    captioner.generation_config.update(decoder_start_token_id=tokenizer.bos_token_id, **marks)
    return captioner


def build_processor(tokenizer: PreTrainedTokenizerFast) -> CLIPProcessor:
    """Return what prepares frames for the tower as training did, with the tokenizer."""
    image = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=GREY, image_std=GREY,
    )  # fmt: skip
    return CLIPProcessor(image, tokenizer)
