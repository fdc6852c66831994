"""`T2VTransformer3DModel`: noisy video latents, time and text in; the velocity out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import FromOriginalModelMixin, PeftAdapterMixin
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.attention.layer import check_backend
from t2v.models.attention.layouts import NORMS, in_config, stack, views_of
from t2v.models.block import T2VTransformerBlock
from t2v.models.conditions import Conditioning
from t2v.models.context_tokens import take_tokens
from t2v.models.device import execution_device
from t2v.models.layers import (
    Linear,
    RotaryEmbedding,
    TimeTextEmbedding,
    check_image_parts,
    mask_of_tokens,
    modulate,
    refuse_mask,
    sincos_at,
    sincos_table,
    with_pictures,
)

if TYPE_CHECKING:
    from t2v.models.routing import Route

# weights that start at zero and add nothing: a model without them may become one with them
ADDED_AT_ZERO = ("picture_embedding",)


class T2VTransformer3DModel(
    ModelMixin, ConfigMixin, PeftAdapterMixin, FromOriginalModelMixin, CacheMixin, AttentionMixin
):
    """Diffusion transformer for video; with the defaults it is equal to that of Wan 2.1.

    The keywords are those of diffusers' `WanTransformer3DModel`, so its `config.json` and weights
    load as they are. A new model has torch's random weights; `initialize` sets those for training.

    Args:
        image_dim: width of `encoder_hidden_states_image`. None: the model takes none.
        added_kv_proj_dim: with `image_dim`, the width of the model: keys and values for the image.
        pos_embed_seq_len: tokens of a first and a last picture together (FLF2V).
        attention: the layout of attention among the video tokens, a name in `LAYOUTS`, or several,
            which the layers take one after the other, from the first again.
        qk_norm: "rms_norm_across_heads", "rms_norm" (per head) or "none".
        rope_theta: base of the rotary frequencies.
        pooled_text: add the text, summed over its tokens, to the time embedding.
        sincos_positions: add fixed sinusoids of time, height and width to the tokens, since rotary
            positions are relative and a small model learns absolute ones slowly.
        conditioning: how known latents enter, see `t2v.models.known`.
        picture_tokens: also take pictures as tokens beside those of the video.
        references: of these, the most that show its subjects and are no frames of it.
        distilled_steps: of a student of `t2v distill`, the numbers of its steps. Empty: it is none.
        learned_tokens: compute so many, learned from all tokens, in the middle blocks
            (`t2v.models.token_learner`). 0: all tokens, in all blocks.
        whole_blocks: with `learned_tokens`, the first and last blocks that compute all tokens.
        memory_tokens, prefix_tokens, frame_tokens: see `take_tokens`.
        codebook_size: of a model of codes: with a `CodeHead` of so many, which makes their scores
            of the `out_channels` features of each latent place. 0: it has none.

    Raises:
        UserError: the keywords require a part that this class does not have.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["patch_embedding", "condition_embedder", "norm"]  # noqa: RUF012
    _no_split_modules = ["T2VTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = ["T2VTransformerBlock"]  # noqa: RUF012
    _keep_in_fp32_modules = [  # noqa: RUF012
        "rope",
        "time_embedder",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
        *NORMS,
    ]
    _keys_to_ignore_on_load_unexpected = ["norm_added_q"]  # noqa: RUF012
    _cp_plan: Any = {  # noqa: RUF012
        "rope": {0: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True)},
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        # one time per token is split with the tokens; a time per sample has one axis and is not
        "condition_embedder": {"timestep": ContextParallelInput(split_dim=1, expected_dims=2)},
    }

    blocks: Any  # a ModuleList of T2VTransformerBlock

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        attention: str | Sequence[str] = "full",
        rope_theta: float = 10000.0,
        pooled_text: bool = False,
        sincos_positions: bool = False,
        conditioning: Conditioning = "none",
        picture_tokens: bool = False,
        distilled_steps: Sequence[int] = (),
        learned_tokens: int = 0,
        whole_blocks: Sequence[int] = (2, 1),
        references: int = 0,
        memory_tokens: int = 0,
        prefix_tokens: int = 0,
        frame_tokens: Sequence[int] = (0, 0, 0),
        codebook_size: int = 0,
    ) -> None:
        super().__init__()
        self.register_to_config(attention=in_config(attention))
        dim = num_attention_heads * attention_head_dim
        check_image_parts(dim, image_dim, added_kv_proj_dim, pos_embed_seq_len)
        self.rope = RotaryEmbedding(attention_head_dim, patch_size, rope_max_seq_len, rope_theta)
        self.patch_embedding = nn.Conv3d(in_channels, dim, patch_size, stride=patch_size)
        self.condition_embedder = TimeTextEmbedding(
            dim,
            freq_dim,
            text_dim,
            pooled_text=pooled_text,
            image_dim=image_dim,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.blocks = nn.ModuleList(
            T2VTransformerBlock(
                dim,
                num_attention_heads,
                ffn_dim,
                chosen=chosen,
                qk_norm=qk_norm,
                cross_attn_norm=cross_attn_norm,
                eps=eps,
                added_kv_proj_dim=added_kv_proj_dim,
            )
            for chosen in stack(attention, num_layers, num_attention_heads)
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = Linear(dim, (out_channels or in_channels) * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.gradient_checkpointing = False
        if picture_tokens:
            self._add_picture_embedding()
        if learned_tokens:
            from t2v.models.token_learner import give_learner  # few models have one

            give_learner(self, learned_tokens)
        take_tokens(self, memory_tokens, prefix_tokens, frame_tokens)
        if codebook_size:
            from t2v.models.code_head import give_code_head

            give_code_head(self, codebook_size, out_channels)
        self._set_split()

    def set_attention(
        self, attention: str | Sequence[str], generator: torch.Generator | None = None
    ) -> None:
        """Let the tokens attend by other layouts; weights that stay do not change.

        Args:
            attention: as in the constructor.
            generator: of the weights of parts that the layouts need and this model has not. Their
                outputs are zero, and their other weights those of `attn1` where they fit.

        Raises:
            UserError: see `stack` and `change_layouts`.
        """
        from t2v.models.attention.change import change_layouts  # few models change

        layers = stack(attention, self.config.num_layers, self.config.num_attention_heads)
        if self.config.learned_tokens:
            self.token_learner.check(layers)
        change_layouts(self, layers, generator)
        self.register_to_config(attention=in_config(attention))
        self._set_split()

    def _set_split(self) -> None:
        layouts = [block.chosen.layout for block in self.blocks]
        whole = self.config.learned_tokens or any(self.config.frame_tokens)  # mean or mask of all
        splits = all(each.can_split for each in layouts) and not whole
        kinds = {each.splits_rotations for each in layouts}  # one table of rotations serves all
        plan = {k: v for k, v in type(self)._cp_plan.items() if k != "rope" or kinds == {True}}
        self._cp_plan = plan if splits and len(kinds) == 1 else None

    def take_known(self, *, picture_tokens: bool, references: int | None = None) -> None:
        """Let known latents in as tokens, and pictures beside them; without them no bit changes."""
        kept = self.config.references if references is None else references
        self.register_to_config(conditioning="tokens", references=kept)
        if picture_tokens and not self.config.picture_tokens:
            self.register_to_config(picture_tokens=True)
            self._add_picture_embedding()

    def become_student(self, distilled_steps: Sequence[int]) -> None:
        """Make videos of text alone, in the given numbers of steps and without guidance."""
        if self.config.picture_tokens:
            del self.picture_embedding
        given = {"conditioning": "none", "picture_tokens": False, "references": 0}
        self.register_to_config(**given, distilled_steps=list(distilled_steps))

    def _add_picture_embedding(self) -> None:
        """Add what tells a picture's tokens from those of the video."""
        if self.config.patch_size[0] != 1:
            raise UserError(
                f"picture_tokens=true with patches of {self.config.patch_size[0]} latent frames: a "
                "picture is one. Give a patch_size that begins with 1."
            )
        self.picture_embedding = nn.Parameter(torch.zeros_like(self.proj_out.weight[0]))

    def initialize(self, generator: torch.Generator) -> None:
        """Initialise the weights for training from scratch, as a function of the generator.

        Matrices are Xavier-uniform and the time and text embedders normal with 0.02, as in Wan. The
        outputs of cross- and temporal attention and the last projection are zero, so the first
        prediction is zero. The gates start open at +0.5: closed ones (adaLN-Zero) learn late
        when the run is short. Of learned tokens see `TokenLearner.begin`.
        """
        from t2v.models.initial import initialize  # most models are loaded

        initialize(self, generator)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        pictures: Tensor | None = None,
        picture_positions: Tensor | None = None,
        route: Route | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity (noise - data) of noisy latents.

        Args:
            hidden_states: normalised latents, `b c t h w`; sizes are multiples of the patch.
            timestep: 1000 * sigma, in [0, 1000]; `b`, or `b n` for one time per token (Wan 2.2).
            encoder_hidden_states: text embeddings with zeros past the prompt's end, `b m text_dim`.
            encoder_attention_mask: boolean, true where a token may be attended to, `b m`, or
                `b t m` by the latent frame that attends. None: all may, as Wan was trained.
            encoder_hidden_states_image: hidden states of an image encoder, `b m image_dim`; those
                of several pictures one after the other.
            attention_kwargs: `scale` is the weight of the LoRA adapters; `kv_cache`, a `KVCache`,
                holds the text's keys and values.
            pictures: normalised latents of single frames, `b c k h w`, given at time 0.
            picture_positions: the place of each in time, `b k`, in latent frames.
            route: blocks that see a part of the tokens, in training with `attention="full"`.

        Returns:
            `sample`, `b c t h w`, in a `Transformer2DModelOutput`; without `return_dict` a tuple.

        Raises:
            UserError: sizes that are not multiples of the patch, a grid that is too long, or an
                image for a model that takes none.
        """
        grid = self._grid(hidden_states)
        rotations = self.rope(hidden_states, pictures, picture_positions)
        x = self._embed(hidden_states)
        if self.config.sincos_positions:
            x = x + sincos_table(x.shape[-1], **grid).to(x)
        count = x.shape[1]
        if pictures is not None:
            assert picture_positions is not None
            x = torch.cat([x, self._embed_pictures(pictures, picture_positions)], dim=1)
            timestep = with_pictures(timestep, count, x.shape[1])
        elif self.config.picture_tokens and torch.is_grad_enabled():
            x = x + 0 * self.picture_embedding  # processes agree on which weights have a gradient
        text = encoder_hidden_states
        mask = self.condition_embedder.seen(encoder_attention_mask, text, grid["t"])
        if mask is not None and mask.ndim == 3:
            mask = mask_of_tokens(mask, x.shape[1], **grid, positions=picture_positions)
        all_tokens = grid if pictures is None else {**grid, "t": grid["t"] + pictures.shape[2]}
        views = views_of([block.chosen for block in self.blocks], rotations, all_tokens)
        kv_cache = (attention_kwargs or {}).get("kv_cache")
        temb, modulation, text = self.condition_embedder(timestep, text, mask, kv_cache)
        image = encoder_hidden_states_image
        if image is not None:
            image = self.condition_embedder.embed_image(image, kv_cache)
        run = partial(self._run_blocks, text, (mask, kv_cache, image))
        way = route or (self.token_learner if self.config.learned_tokens else None)
        refuse_mask(way, mask)
        if way is not None:
            x = way.through(run, len(self.blocks), x, modulation, views)
        for number in range(len(self.blocks) if way is None else 0):  # one by one: one call
            x = run(number, number + 1, x, modulation, views)  # would hold the first tokens on
        # temb lies on the first device when the blocks are spread over several
        table = self.scale_shift_table.unsqueeze(0).to(temb.device) + temb.unsqueeze(2)
        shift, scale = table.to(x.device).unbind(2)  # b 1|n d
        x = self.proj_out(modulate(self.norm_out, x, scale, shift))[:, :count]
        sample = self._unpatchify(x, grid)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _run_blocks(
        self,
        text: Tensor,
        given: tuple[Any, ...],
        first: int,
        last: int,
        x: Tensor,
        modulation: Tensor,
        views: list[Any],
    ) -> Tensor:
        for number in range(first, last):
            block, also = self.blocks[number], (text, modulation, views[number], *given)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, *also)
            else:
                x = block(x, *also)
        return x

    def set_residual_dtype(self, dtype: torch.dtype) -> None:
        """Choose the dtype of the tokens that go from block to block, under autocast."""
        self.blocks[0].register_forward_pre_hook(partial(_cast_tokens, dtype))

    def set_attention_backend(self, backend: str) -> None:
        """Choose the attention backend of this model alone.

        Raises:
            UserError: the backend does not run on the model's device.
        """
        check_backend(backend, self.config.attention_head_dim, execution_device(self), self.dtype)
        with attention_backend(backend):  # restores the process-wide choice super() overwrites
            super().set_attention_backend(backend)

    def _embed(self, latents: Tensor) -> Tensor:
        # under autocast the convolution gives half precision; the residual keeps that of the input
        x = self.patch_embedding(latents).type_as(latents)
        return rearrange(x, "b d t h w -> b (t h w) d").contiguous()

    def _embed_pictures(self, pictures: Tensor, positions: Tensor) -> Tensor:
        x = self._embed(pictures.to(self.dtype)) + self.picture_embedding
        if self.config.sincos_positions:
            grid = self._grid(pictures)
            x = x + sincos_at(positions, x.shape[-1], grid["h"], grid["w"]).to(x)
        return x

    def _grid(self, video: Tensor) -> dict[str, int]:
        sizes, patch = video.shape[2:], self.config.patch_size
        if any(size % step for size, step in zip(sizes, patch, strict=True)):
            raise UserError(
                f"Latents of (frames, height, width) = {tuple(sizes)} are not multiples of "
                f"the patch {tuple(patch)}. Give sizes that are multiples of the patch."
            )
        t, h, w = (size // step for size, step in zip(sizes, patch, strict=True))
        return {"t": t, "h": h, "w": w}

    def _unpatchify(self, x: Tensor, grid: dict[str, int]) -> Tensor:
        pt, ph, pw = self.config.patch_size
        sides = {"pt": pt, "ph": ph, "pw": pw, **grid}
        return rearrange(x, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", **sides)


def _cast_tokens(dtype: torch.dtype, block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *others = given
    return (x.to(dtype) if torch.is_autocast_enabled(x.device.type) else x, *others)


# `from_single_file` looks every class in its table up as an attribute of diffusers
diffusers.T2VTransformer3DModel = T2VTransformer3DModel
SINGLE_FILE_LOADABLE_CLASSES["T2VTransformer3DModel"] = {
    "checkpoint_mapping_fn": convert_wan_transformer_to_diffusers,
    "default_subfolder": "transformer",
}
