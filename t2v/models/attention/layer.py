"""Multi-head attention: one layer, and the table of which backend runs and takes which mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.hooks._helpers import (
    AttentionProcessorMetadata,
    AttentionProcessorRegistry,
    _skip_attention___ret___hidden_states,
)
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    attention_backend,
    dispatch_attention_fn,
)
from einops import rearrange
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.context_tokens import ContextTokens
from t2v.models.kernels.attention import attend, attention_kernel
from t2v.models.kv_cache import KVCache, cached
from t2v.models.layers import Linear, RMSNorm, apply_rotary

if TYPE_CHECKING:
    from t2v.models.attention.sight import Sight

# The mask forms that give the right answer, as tests found: xformers adds a 4-D boolean mask to the
# scores as numbers, and flex takes a 2-D one for one row per query.
_MASK_4D = {"native", "flex", "_native_math", "_native_efficient", "_native_cudnn"}
_MASK_2D = {"xformers", "flash_varlen", "flash_varlen_hub", "sage_varlen"} | {
    "_flash_varlen_3",
    "_flash_3_varlen_hub",
}
LARGE = 256  # queries of a group

PAIRS = (
    "xformers 0.0.35 of PyPI runs with torch 2.10.0 of CUDA 12.8 alone: its library wants CUDA 12, "
    "which PyPI's torch from 2.11 on has not, and without it no operator runs. Install that pair: "
    'pip install -c constraints-gpu.txt "t2v[gpu]"'
)


class Pack(NamedTuple):
    """Sequences one after another in one, in groups of equal ones: each attends to its own keys.

    Args:
        queries: rows and tokens of each group.
        keys: likewise, as many rows.
        rotations: of all tokens, `1 n 1 d`, for self-attention.
    """

    queries: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]
    rotations: Tensor | None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Callable[..., Tensor]
    ) -> Tensor:
        """The output of `attend` for each group of `1 n k d`, `1 n (k d)`."""
        parts = zip(
            _rows(query, self.queries),
            _rows(key, self.keys),
            _rows(value, self.keys),
            strict=True,
        )
        return torch.cat([rearrange(attend(*each), "r n d -> 1 (r n) d") for each in parts], 1)


def _rows(x: Tensor, groups: Sequence[tuple[int, int]]) -> list[Tensor]:
    sizes = [rows * tokens for rows, tokens in groups]
    return [
        rearrange(part, "1 (r n) k d -> r n k d", r=rows)
        for part, (rows, _) in zip(x.split(sizes, dim=1), groups, strict=True)
    ]


class T2VAttnProcessor:
    """The computation of a layer: project, normalise, rotate and attend by diffusers' kernels."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | Pack | None = None,
        rotary_emb: Tensor | Pack | None = None,
        kv_cache: KVCache | None = None,
        encoder_hidden_states_image: Tensor | None = None,
        sights: tuple[Sight, ...] | None = None,
    ) -> Tensor:
        query, key, value = attn.project(hidden_states, encoder_hidden_states, kv_cache)  # b n k d
        if isinstance(rotary_emb, Pack) or isinstance(attention_mask, Pack):
            pack: Any = rotary_emb if isinstance(rotary_emb, Pack) else attention_mask
            if pack.rotations is not None:
                query, key = (apply_rotary(each, pack.rotations) for each in (query, key))
            x = pack.attend(query, key, value, self._attend)
            return attn.to_out[1](attn.to_out[0](x))
        if rotary_emb is not None:
            query, key = apply_rotary(query, rotary_emb), apply_rotary(key, rotary_emb)
        if sights is not None:
            from t2v.models.attention.sight import attend_in_sight  # few models have any

            x = attend_in_sight(query, key, value, sights, self._attend_groups)
            x = rearrange(x, "b n k d -> b n (k d)")
            return attn.to_out[1](attn.to_out[0](x))
        # text is whole on every device, so only self-attention is split
        parallel_config = self._parallel_config if encoder_hidden_states is None else None
        mask = attention_mask if attn.memory is None else attn.memory.seen(attention_mask)
        mask = portable_mask(mask, self._attention_backend)
        x = self._attend(query, key, value, mask, parallel_config)
        if encoder_hidden_states_image is not None:
            key, value = attn.project_image(encoder_hidden_states_image, kv_cache)
            x = x + self._attend(query, key, value)
        return attn.to_out[1](attn.to_out[0](x))

    def _attend_groups(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attention of many small groups, `b n k d`."""
        mask = portable_mask(mask, self._attention_backend)
        # the other kernels of a CPU take one sample after the other, which pays for large ones
        is_large = query.shape[1] >= LARGE
        x = self._attend(query, key, value, mask, is_large=is_large)
        return rearrange(x, "b n (k d) -> b n k d", k=query.shape[2])

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        parallel_config: Any = None,
        is_large: bool = True,
    ) -> Tensor:
        is_plain = mask is None and parallel_config is None
        if is_plain and is_large and _is_native(self._attention_backend):
            kernel = attention_kernel(query, key)
            if kernel != "sdpa":
                x = attend(query, key, value, kernel)
                return rearrange(x, "b n k d -> b n (k d)")
        if parallel_config is not None:
            from t2v.models.attention.exchange import is_ring_on_cpu, ring_on_cpu  # of few runs

            if is_ring_on_cpu(parallel_config, query):
                x = ring_on_cpu(query, key, value, parallel_config)
                return rearrange(x, "b n k d -> b n (k d)").type_as(query)
        x = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=0.0,
            is_causal=False,
            backend=self._attention_backend,
            parallel_config=parallel_config,
        )
        return rearrange(x, "b n k d -> b n (k d)").type_as(query)


class Attention(nn.Module, AttentionModuleMixin):
    """Self- or cross-attention with normalised queries and keys; names and numbers are Wan's.

    Args:
        qk_norm: "rms_norm_across_heads" over the whole width (Wan 2.1), "rms_norm" per head or
            "none".
        added_kv_proj_dim: width of the image tokens, which get keys and values of their own
            (Wan 2.1 I2V). None: no image is attended to.
    """

    _default_processor_cls: Any = T2VAttnProcessor
    _available_processors = [T2VAttnProcessor]  # noqa: RUF012 (the name diffusers reads)
    use_bias = True
    processor: Any
    add_k_proj: nn.Linear  # these three only with added_kv_proj_dim
    add_v_proj: nn.Linear
    norm_added_k: nn.Module
    to_qkv: nn.Linear  # made by fuse_qkv_projections
    to_kv: nn.Linear

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        *,
        qk_norm: str,
        eps: float,
        is_cross_attention: bool = False,
        added_kv_proj_dim: int | None = None,
    ) -> None:
        super().__init__()
        inner_dim = heads * dim_head
        self.heads = heads
        self.is_cross_attention = is_cross_attention
        self.to_q = Linear(dim, inner_dim)
        self.to_k = Linear(dim, inner_dim)
        self.to_v = Linear(dim, inner_dim)
        self.to_out = nn.ModuleList([Linear(inner_dim, dim), nn.Dropout(0.0)])
        self.norm_per_head = qk_norm == "rms_norm"
        make_norm = _qk_norm(qk_norm, inner_dim, dim_head, eps)
        self.norm_q = make_norm()
        self.norm_k = make_norm()
        if added_kv_proj_dim is not None:
            self.add_k_proj = Linear(added_kv_proj_dim, inner_dim)
            self.add_v_proj = Linear(added_kv_proj_dim, inner_dim)
            self.norm_added_k = make_norm()
        self.memory: ContextTokens | None = None
        self.processor = T2VAttnProcessor()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
        kv_cache: KVCache | None = None,
        encoder_hidden_states_image: Tensor | None = None,
        sights: tuple[Sight, ...] | None = None,
    ) -> Tensor:
        """Attend from `hidden_states` (`b n d`) to itself or to `encoder_hidden_states` (`b m d`).

        Args:
            attention_mask: `b m`, true where a key may be attended to.
            rotary_emb: rotations from `RotaryEmbedding`, `1 n 1 d`, for self-attention.
            kv_cache: keeps the keys and values of `encoder_hidden_states` and of the image.
            encoder_hidden_states_image: image tokens, `b m d`, whose attention is added.
            sights: who sees whom, for all heads or for equal parts of them; None: each sees all.
        """
        return self.processor(
            self,
            hidden_states,
            encoder_hidden_states,
            attention_mask,
            rotary_emb,
            kv_cache,
            encoder_hidden_states_image,
            sights,
        )

    def project(
        self, x: Tensor, context: Tensor | None = None, kv_cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised query and key, and value, each `b n k d`."""
        if context is None and self.fused_projections:
            query, key, value = self.to_qkv(x).chunk(3, dim=-1)
            return (
                self._heads(query, self.norm_q),
                self._heads(key, self.norm_k),
                self._heads(value),
            )
        query = self._heads(self.to_q(x), self.norm_q)
        if context is None:
            return query, *self._key_value(x)
        return query, *cached(kv_cache, self, context, self._key_value)

    def project_image(
        self, image: Tensor, kv_cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Normalised key and value of image tokens `b m d`, each `b m k d`."""
        return cached(kv_cache, self.add_k_proj, image, self._key_value_of_image)

    def _key_value_of_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        key = self._heads(self.add_k_proj(image), self.norm_added_k)
        return key, self._heads(self.add_v_proj(image))

    def _key_value(self, context: Tensor) -> tuple[Tensor, Tensor]:
        if self.memory is not None:
            context = self.memory.beside(context)
        if self.is_cross_attention and self.fused_projections:
            key, value = self.to_kv(context).chunk(2, dim=-1)
        else:
            key, value = self.to_k(context), self.to_v(context)
        return self._heads(key, self.norm_k), self._heads(value)

    def _heads(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        if norm is not None and not self.norm_per_head:
            x = norm(x)
        x = rearrange(x, "b n (k d) -> b n k d", k=self.heads)
        return norm(x) if norm is not None and self.norm_per_head else x

    def set_use_memory_efficient_attention_xformers(
        self, use_memory_efficient_attention_xformers: bool, attention_op: Callable | None = None
    ) -> None:
        """Use xformers, or go back to the default; diffusers' own version cannot go back."""
        if use_memory_efficient_attention_xformers:
            super().set_use_memory_efficient_attention_xformers(True, attention_op)
        else:
            self.processor._attention_backend = None


def _qk_norm(kind: str, inner_dim: int, dim_head: int, eps: float) -> Callable[[], nn.Module]:
    if kind == "rms_norm_across_heads":
        return lambda: RMSNorm(inner_dim, eps=eps)
    if kind == "rms_norm":
        return lambda: RMSNorm(dim_head, eps=eps)
    if kind == "none":
        return nn.Identity
    raise UserError(
        f"qk_norm={kind!r} is unknown. "
        'Choose "rms_norm_across_heads" (Wan 2.1), "rms_norm" (per head) or "none".'
    )


def _is_native(backend: AttentionBackendName | None) -> bool:
    """True for the backend that leaves the choice of a kernel open."""
    name = backend or _AttentionBackendRegistry.get_active_backend()[0]
    return name == AttentionBackendName.NATIVE


def portable_mask(mask: Tensor | None, backend: AttentionBackendName | None) -> Tensor | None:
    """A boolean mask (`b m`, or `b q m` by queries; true: attend) in the form `backend` expects.

    Raises:
        UserError: the backend does not support masks.
    """
    if mask is None:
        return None
    name = (backend or _AttentionBackendRegistry.get_active_backend()[0]).value
    if name in _MASK_4D:
        return rearrange(mask, "b m -> b 1 1 m" if mask.ndim == 2 else "b q m -> b 1 q m")
    if name in _MASK_2D and mask.ndim == 2:
        return mask
    raise UserError(
        f'The attention backend "{name}" does not support masks, which a text\'s '
        "encoder_attention_mask is, and a layout of attention has (strided always, others where "
        'sides do not divide). Use the backend "native", or omit the mask of the text and set its '
        "padded embeddings to zero."
    )


def check_backend(name: str, head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
    """Run one tiny attention on `device`, because an installed backend may still have no kernel.

    Raises:
        UserError: names the backend, the reason and the remedy.
    """
    x = torch.zeros(1, 16, 1, head_dim, device=device, dtype=dtype)
    try:
        with attention_backend(name), torch.no_grad():
            dispatch_attention_fn(x, x, x)
    except (ImportError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = refusals(str(error)) if name == "xformers" else str(error)
        reason = reason.strip().splitlines()[0].rstrip(".")
        raise UserError(
            f'The attention backend "{name}" does not run on {device} in {dtype}: {reason}. '
            + _remedy(name, device)
        ) from error


def _remedy(name: str, device: torch.device) -> str:
    if name not in {backend.value for backend in AttentionBackendName}:
        return "Known: " + ", ".join(backend.value for backend in AttentionBackendName) + "."
    needs_gpu = 'It needs a GPU: move the model with .to("cuda"), or use the backend "native".'
    if name == "xformers":
        other = needs_gpu if device.type == "cpu" else 'Change that, or use the backend "native".'
        return f"{other} {xformers_set()}"
    if device.type == "cpu" and not name.startswith(("native", "flex", "_native")):
        return needs_gpu
    return 'It usually needs half precision or a newer GPU. Change that, or use "native".'


def refusals(reason: str) -> str:
    """A refusal by xformers in one line: each operator that it asked, and why it will not do."""
    found: list[str] = []
    for line in reason.splitlines():
        if line.endswith("is not supported because:"):
            found.append(f"{line.split('`')[1]}: ")
        elif found:
            found[-1] += f"{'' if found[-1].endswith(': ') else ', '}{line.strip()}"
    return "; ".join(found) or reason.strip().splitlines()[0].rstrip(".")


def xformers_set() -> str:
    """The installed xformers and torch, and the pairs of them that run, in sentences."""
    try:
        found = f"xformers {version('xformers')}"
    except PackageNotFoundError:
        found = "no xformers"
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return f"Installed: {found}, torch {torch.__version__} ({cuda}). {PAIRS}."


AttentionProcessorRegistry.register(
    T2VAttnProcessor,
    AttentionProcessorMetadata(skip_processor_output_fn=_skip_attention___ret___hidden_states),
)
