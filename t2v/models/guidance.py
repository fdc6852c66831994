"""Guidance: the predictions of the transformer for each condition, combined into one."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.guiders import BaseGuidance
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from t2v.models.conditions import Conditions
from t2v.models.device import ready
from t2v.models.known import transformer_inputs
from t2v.models.kv_cache import KVCache
from t2v.models.split import split_of

CFGMode = Literal["sequential", "batched"]

# These two keep one state for all conditions, so one forward must hold all of them.
UNKEYED_CACHES = {"pyramid_attention_broadcast", "faster_cache_denoiser"}


@dataclass(frozen=True)
class SchedulerStep:
    """One step of the scheduler, as the transformer and diffusers' caches need it.

    Args:
        timestep: of all latents, or one for each latent frame.
    """

    timestep: Tensor
    index: int
    count: int
    sigma: float | None


@dataclass(frozen=True)
class Group:
    """Samples that go through the transformer together, and what stays the same from step to step.

    Args:
        samples: their place in the batch.
        conditions: of the samples, once for each prediction.
        kv_cache: for the text in `conditions`.
    """

    samples: slice
    conditions: Conditions
    kv_cache: KVCache


# by what is predicted ("cond", "uncond", "cond_uncond", ...) and the conditions it is predicted for
Groups = dict[tuple[str | Conditions, ...], list[Group]]


class Guidance:
    """The transformer's predictions for all conditions, combined into one.

    On a CPU each sample goes through the transformer alone, with its two conditions. Matrix
    products round differently for other batch sizes; this way a sample's bits do not depend on
    the rest of the batch, and no time is lost: the embedded model takes 25 ms for one row, 16 a row
    for two, 16 to 20 for more. A cache on the transformer needs the whole batch and gets it.

    Args:
        mode: predict the conditions one after the other, or in one batch. None: one after the
            other, but in one batch on a CPU, where a cache needs it
            (`PyramidAttentionBroadcast`, `FasterCache`) and where processes share the batch.
        guider: takes the place of classifier-free guidance.
        attention_kwargs: handed to the transformer.
        guided: the indices of the steps that classifier-free guidance is in (arXiv 2404.07724);
            in others the negative is not predicted. None: all.
    """

    def __init__(
        self,
        transformer: ModelMixin,
        mode: CFGMode | None = None,
        guider: BaseGuidance | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        guided: range | None = None,
    ) -> None:
        caches = _stateful_hooks(transformer)
        if caches:
            transformer._reset_stateful_cache()  # an interrupted run leaves its own behind
        self.guided, self.leaves_out = guided, bool(caches)
        self.transformer = transformer
        self.guider = guider
        self.attention_kwargs = attention_kwargs or {}
        self.alone = ready(transformer).type == "cpu" and not caches
        split = split_of(transformer)
        is_shared = split is not None and split.guidance > 1
        together = self.alone or bool(caches & UNKEYED_CACHES) or is_shared
        self.batched = mode == "batched" if mode else together

    def __call__(
        self,
        latents: Tensor,
        positive: Conditions,
        negative: Conditions | None,
        scale: float,
        step: SchedulerStep,
        groups: Groups,
        visual_scale: float = 1.0,
    ) -> Tensor:
        """Return the prediction that the scheduler steps along.

        Args:
            latents: `b c t h w`.
            positive, negative: what to come near, and what to stay away from.
            scale: weight of the direction from negative to positive; up to 1 the negative is not
                predicted (arXiv 2207.12598, equation 6).
            groups: empty in the first step, which fills it for the others. Start with an empty one
                when weights, adapters or the content of the conditions have changed.
            visual_scale: weight of the direction from nothing to the pictures and clips that are
                given, beside that of the text (Emu Video, arXiv 2311.10709, section 3.1):
                `X(0) + visual_scale (X(I) - X(0)) + scale (X(I, p) - X(I))`. At 1 it is plain
                guidance with all that is given on both sides.

        Returns:
            The prediction, shape and dtype of `latents`.
        """
        if self.guider is not None:
            return self._guide(self.guider, latents, (positive, negative), step, groups)
        if visual_scale != 1:
            assert negative is not None
            return self._guide_both(
                latents, (positive, negative), (scale, visual_scale), step, groups
            )
        is_guided = self.guided is None or step.index in self.guided
        if negative is None or scale <= 1 or not is_guided:
            return self._predict("cond", latents, (positive,), step, groups)
        if self.batched:
            both = torch.cat([latents, latents])
            together = self._predict("cond_uncond", both, (negative, positive), step, groups)
            uncond, cond = together.chunk(2)
        else:
            cond = self._predict("cond", latents, (positive,), step, groups)
            uncond = self._predict("uncond", latents, (negative,), step, groups)
        return uncond + scale * (cond - uncond)

    def _guide_both(
        self,
        latents: Tensor,
        conditions: tuple[Conditions, Conditions],
        scales: tuple[float, float],
        step: SchedulerStep,
        groups: Groups,
    ) -> Tensor:
        (positive, negative), (scale, visual_scale) = conditions, scales
        if ("bare", positive) not in groups:  # the same object in every step, or its group is lost
            groups["bare", positive] = self._split((negative.without_visuals(),))
        both = self._predict("cond", latents, (positive,), step, groups)
        visual = self._predict("uncond", latents, (negative,), step, groups)
        bare = self._predict("bare", latents, (positive,), step, groups)
        return bare + visual_scale * (visual - bare) + scale * (both - visual)

    def _guide(
        self,
        guider: BaseGuidance,
        latents: Tensor,
        conditions: tuple[Conditions, Conditions | None],
        step: SchedulerStep,
        groups: Groups,
    ) -> Tensor:
        guider.set_state(step=step.index, num_inference_steps=step.count, timestep=step.timestep)
        batches = guider.prepare_inputs({"conditions": conditions})
        for batch in batches:
            guider.prepare_models(self.transformer)
            name = batch.__guidance_identifier__
            batch.noise_pred = self._predict(name, latents, (batch.conditions,), step, groups)
            guider.cleanup_models(self.transformer)
        return guider(batches)[0]

    def _predict(
        self,
        name: str,
        latents: Tensor,
        conditions: tuple[Conditions, ...],
        step: SchedulerStep,
        groups: Groups,
    ) -> Tensor:
        key: tuple[str | Conditions, ...] = (name, *conditions)
        if key not in groups:
            groups[key] = self._split(conditions)
        predictions = [self._forward(name, latents, group, step) for group in groups[key]]
        if len(predictions) == 1:
            return predictions[0].to(latents.dtype)
        return rearrange(predictions, "s k c t h w -> (k s) c t h w").to(latents.dtype)

    def _split(self, conditions: tuple[Conditions, ...]) -> list[Group]:
        # rows are ordered (condition, sample); a group holds all conditions of its samples
        whole, count = Conditions.cat(conditions), len(conditions[0])
        samples = [slice(i, None, count) for i in range(count)] if self.alone else [slice(None)]
        return [Group(each, whole.rows(each), KVCache()) for each in samples]

    def _forward(self, name: str, latents: Tensor, group: Group, step: SchedulerStep) -> Tensor:
        latents = latents[group.samples].to(self.transformer.dtype)
        place = {"step_index": step.index, "num_inference_steps": step.count, "sigma": step.sigma}
        with self.transformer.cache_context(name, **place):
            return self.transformer(
                attention_kwargs={**self.attention_kwargs, "kv_cache": group.kv_cache},
                return_dict=False,
                **transformer_inputs(
                    self.transformer,
                    latents,
                    step.timestep.expand(len(latents), *step.timestep.shape),
                    group.conditions,
                ),
            )[0]


def _stateful_hooks(model: ModelMixin) -> set[str]:
    """The names of diffusers' hooks that carry something from one step to the next."""
    registries = [getattr(module, "_diffusers_hook", None) for module in model.modules()]
    hooks = [registry.hooks for registry in registries if registry is not None]
    return {name for each in hooks for name, hook in each.items() if hook._is_stateful}
