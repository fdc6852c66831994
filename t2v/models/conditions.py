"""Everything the transformer is conditioned on besides the noise level, in one object."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn

from t2v.errors import UserError

# The keyword of the transformer's forward that each field becomes. diffusers' hooks (caches,
# offload, context parallelism) read named tensors there, so no object is handed to the forward.
KEYWORDS = {
    "text": "encoder_hidden_states",
    "text_mask": "encoder_attention_mask",
    "image": "encoder_hidden_states_image",
    "pictures": "pictures",
    "picture_positions": "picture_positions",
}

# What becomes part of the noisy latents instead, in `t2v.models.known`.
IN_LATENTS = ("known", "known_mask", "channels", "source")

Conditioning = Literal["none", "tokens", "channels"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """The conditions of `b` videos; the first axis of every field is the video.

    Args:
        text: text embeddings with zeros past each prompt's end, `b m d`.
        text_mask: true where a token may be attended to, `b m`. None: everywhere.
        known: normalised latents that are given rather than generated, `b c t h w`.
        known_mask: how surely `known` holds, `b 1 t h w` in [0, 1]; 0 where it is to be made.
        pictures: normalised latents of single frames, `b c k h w`, each a block of tokens beside
            those of the video.
        picture_positions: their places in time, `b k`, as `picture_position` counts.
        channels: a mask and known latents in the form that is joined to the noisy latents of a
            model with more input channels, `b c' t h w`.
        image: the embedding of pictures by an image encoder, `b n d`.
        source: normalised latents of the video that an edit starts from, `b c t h w`.
    """

    text: Tensor
    text_mask: Tensor | None = None
    known: Tensor | None = None
    known_mask: Tensor | None = None
    pictures: Tensor | None = None
    picture_positions: Tensor | None = None
    channels: Tensor | None = None
    image: Tensor | None = None
    source: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def given(self) -> dict[str, Tensor]:
        """The fields that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def keywords(self, transformer: nn.Module) -> dict[str, Tensor]:
        """The keywords of `transformer` that carry the fields that are not part of the latents.

        Raises:
            UserError: the transformer's forward lacks one of them.
        """
        given = {name: each for name, each in self.given().items() if name in KEYWORDS}
        model = getattr(transformer, "_orig_mod", transformer)  # of a compiled one
        taken = inspect.signature(type(model).forward).parameters
        open_ended = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        for name in given:
            if not open_ended and KEYWORDS[name] not in taken:
                raise UserError(
                    f"The condition {name!r} is given, but {type(model).__name__} takes no "
                    f"{KEYWORDS[name]}. Leave it out, or use a model trained with it."
                )
        return {KEYWORDS[name]: value for name, value in given.items()}

    def with_text(self, text: Tensor) -> Conditions:
        """These conditions with another text; itself where it is the same tensor."""
        return self if text is self.text else replace(self, text=text)

    def without_visuals(self) -> Conditions:
        """The text alone; a model with more input channels gets zeros in them, as in Emu Video."""
        zeros = {
            name: torch.zeros_like(value)
            for name, value in self.given().items()
            if name in ("channels", "image")
        }
        return Conditions(text=self.text, text_mask=self.text_mask, **zeros)

    def rows(self, index: slice | Tensor) -> Conditions:
        """The conditions of some of the videos."""
        return replace(self, **{name: value[index] for name, value in self.given().items()})

    def repeat(self, count: int) -> Conditions:
        """Each video's conditions `count` times, next to each other."""
        repeated = {
            name: value.repeat_interleave(count, dim=0) for name, value in self.given().items()
        }
        return replace(self, **repeated)

    def to(
        self, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Conditions:
        """The same conditions on another device; masks keep their dtype."""
        moved = {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in self.given().items()
        }
        return replace(self, **moved)

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> Conditions:
        """The conditions of all videos of `parts`, one after the other."""
        first, *others = parts
        assert all(part.given().keys() == first.given().keys() for part in others)
        joined = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in first.given()
        }
        return Conditions(**joined)


def input_channels(latent_channels: int, conditioning: Conditioning) -> tuple[int, ...] | None:
    """The `in_channels` that a transformer may have for latents of `latent_channels` channels.

    Text enters by attention and known tokens lie among the noisy ones, so both take none. None: any
    number, since a mask and known latents stand beside the noisy ones.
    """
    return None if conditioning == "channels" else (latent_channels,)
