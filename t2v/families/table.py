"""The families that are known: one row each."""

from __future__ import annotations

from t2v.families.cogvideox import COGVIDEOX
from t2v.families.cosmos import COSMOS, COSMOS_2, COSMOS_25
from t2v.families.hunyuan import HUNYUAN, HUNYUAN_15, HUNYUAN_I2V
from t2v.families.kandinsky import KANDINSKY, KANDINSKY_I2V
from t2v.families.ltx import LTX, LTX_2
from t2v.families.mochi import MOCHI
from t2v.families.record import Family
from t2v.families.sana import SANA
from t2v.families.skyreels import FORCING, SKYREELS
from t2v.families.wan import WAN

FAMILIES: tuple[Family, ...] = (
    *(WAN, SKYREELS, FORCING, LTX, LTX_2, HUNYUAN, HUNYUAN_I2V, HUNYUAN_15, COGVIDEOX),
    *(MOCHI, KANDINSKY, KANDINSKY_I2V, COSMOS, COSMOS_2, COSMOS_25, SANA),
)


def family_of(pipeline: str) -> Family | None:
    """The family of a pipeline class by its name, or None."""
    return next((family for family in FAMILIES if pipeline in family.pipelines), None)
