"""The settings that go with the objectives of token generators."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from t2v.errors import UserError

CODES = ("masked", "autoregressive")  # objectives without noise, of a VAE with a quantizer
CAUSAL = ("causal", "causal_axial")  # layouts of attention in which no token sees a later one


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """The ways in which a token generator draws codes; null: as it is saved."""

    temperature: float | None = None  # scores are divided by it; 0: the likeliest code alone
    top_k: int | None = None  # most codes that one is drawn from; 0: all
    top_p: float | None = None  # share of the probability of those that one is drawn from
    # of a masked one, of the choice of the surest codes in the first step; it falls to 0
    choice_temperature: float | None = None

    def given(self) -> dict[str, float]:
        """The settings that are not null, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def check_codes(config: Any) -> None:
    """Refuse settings of `t2v train` that do not make a token generator, or only half of one.

    Raises:
        UserError: names the settings and what they should be.
    """
    objective, model = config.objective, config.model
    if objective not in CODES:
        raise UserError(
            f"model.codebook_size={model.codebook_size} objective={objective}: a model of codes is "
            f"trained with objective={' or '.join(CODES)}. Give one, or leave codebook_size out."
        )
    if model.codebook_size < 2:
        raise UserError(
            f"objective={objective} model.codebook_size={model.codebook_size}: give the number of "
            "codes of the VAE's quantizer, such as 4096."
        )
    is_causal = [word in CAUSAL for word in model.attention]
    words = ",".join(model.attention)
    if objective == "autoregressive" and not all(is_causal):
        raise UserError(
            f"objective=autoregressive model.attention={words}: no token may see a later one. Give "
            f"model.attention={' or '.join(CAUSAL)}."
        )
    if objective == "masked" and any(is_causal):
        raise UserError(
            f"objective=masked model.attention={words}: what is masked depends on all the rest. "
            "Give model.attention=full, or leave it out."
        )
    shares = asdict(config.tasks)
    takes = {"masked": set(shares) - {"frames"}, "autoregressive": {"text", "image"}}[objective]
    if wrong := [name for name, share in shares.items() if share and name not in takes]:
        why = {
            "masked": "codes have no noise level of their own",
            "autoregressive": "it goes on from any first codes without having been given them",
        }[objective]
        raise UserError(
            f"objective={objective} {' '.join(f'tasks.{name}={shares[name]:g}' for name in wrong)}:"
            f" {why}. Leave {'it' if len(wrong) == 1 else 'them'} out."
        )
    others = {
        f"pack={config.pack}": config.pack,
        f"masking.ratio={config.masking.ratio:g}": config.masking.ratio,
        f"model.learned_tokens={model.learned_tokens}": model.learned_tokens,
        f"model.conditioning={model.conditioning}": model.conditioning == "channels",
    }
    if given := [name for name, value in others.items() if value]:
        raise UserError(
            f"objective={objective} {' '.join(given)}: a model of codes is trained on whole clips, "
            "all of whose tokens every block sees. Leave it out."
        )
