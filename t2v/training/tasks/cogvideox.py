"""CogVideoX in the form that fine-tuning works with: networks that are called as our own are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from diffusers import CogVideoXPipeline
from einops import rearrange
from torch import Tensor

from t2v.errors import UserError
from t2v.models.diffusion import Objective
from t2v.training.tasks.dit_parts import DiTParts
from t2v.training.tasks.family_networks import FamilyTransformer, FamilyVAE

OBJECTIVES: dict[str, Objective] = {"v_prediction": "v", "epsilon": "epsilon"}


class CogVideoXTransformer(FamilyTransformer):
    """The transformer with latents `b c t h w` for its `b t c h w`, and rotary positions added."""

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        patch = (config.patch_size_t or 1, config.patch_size, config.patch_size)
        super().__init__(pipeline.transformer, patch, config.text_embed_dim)
        self.scale = pipeline.vae_scale_factor_spatial

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the prediction `b c t h w`, in a tuple as diffusers does.

        Args:
            hidden_states: noisy latents, `b c t h w`.
            timestep: of the schedule, `b`.
            encoder_hidden_states: text with its padding, `b m d`.
        """
        assert not return_dict, "training takes the tuple"
        (found,) = self.inner(
            hidden_states=rearrange(hidden_states, "b c t h w -> b t c h w"),
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            image_rotary_emb=self._rotary(hidden_states),
            return_dict=False,
        )
        return (rearrange(found, "b t c h w -> b c t h w"),)

    def _rotary(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """The rotary positions of latents `b c t h w`; None for a transformer of sums."""
        if not self.inner.config.use_rotary_positional_embeddings:
            return None
        t, h, w = latents.shape[2:]
        # the pipeline's own method, which needs no more of it than this
        pipeline: Any = SimpleNamespace(transformer=self.inner, vae_scale_factor_spatial=self.scale)
        return CogVideoXPipeline._prepare_rotary_positional_embeddings(
            pipeline, h * self.scale, w * self.scale, t, latents.device
        )


class PaddedTokenizer:
    """The tokenizer as the pipeline calls it: texts of one length, whose padding is attended to.

    Args:
        length: tokens that every text is padded to; a longer one stays as long as it is.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.inner, self.length = tokenizer, length
        self.pad_token_id = tokenizer.pad_token_id

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        """The tokens of a text or of several."""
        given = {"padding": "max_length", "max_length": self.length, "truncation": False} | options
        return self.inner(text, **given)


def cogvideox_parts(pipeline: Any, fps: float) -> DiTParts:
    """The parts of a training: those of the pipeline, in the form of ours.

    Args:
        fps: not used, for its positions count frames.

    Raises:
        UserError: its scheduler is of models that predict something else.
    """
    kind = pipeline.scheduler.config.get("prediction_type")
    if kind not in OBJECTIVES:
        raise UserError(
            f"{type(pipeline.scheduler).__name__} of prediction_type={kind}: fine-tuning of "
            f"CogVideoX takes {' or '.join(OBJECTIVES)}. Put the scheduler back that the model was "
            "published with."
        )
    length = pipeline.transformer.config.max_text_seq_length
    networks: dict[str, Any] = {
        "transformer": CogVideoXTransformer(pipeline),
        "vae": FamilyVAE(
            pipeline.vae,
            mean=[0.0] * pipeline.vae.config.latent_channels,
            spread=[1 / pipeline.vae_scaling_factor_image] * pipeline.vae.config.latent_channels,
            temporal=pipeline.vae_scale_factor_temporal,
            spatial=pipeline.vae_scale_factor_spatial,
            patch=pipeline.transformer.config.patch_size,
        ),
        "tokenizer": PaddedTokenizer(pipeline.tokenizer, length),
    }
    return DiTParts(
        **networks,
        text_encoder=pipeline.text_encoder,
        scheduler=pipeline.scheduler,
        objective=OBJECTIVES[kind],
        schedule=pipeline.scheduler,
        shift=1.0,
        defaults={"max_sequence_length": length},
    )
