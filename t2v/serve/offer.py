"""Models and LoRAs that an operator offers to clients, by names that tell no path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.files import EMBEDDED
from t2v.serve.checks import words_of
from t2v.serve.errors import Refused
from t2v.serve.models import Model, known


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Models and LoRAs that clients may ask for.

    Args:
        models: by the names that clients know; the first is what they get who name none.
        loras: files or folders, likewise.
    """

    models: dict[str, Model]
    loras: Mapping[str, str]

    @classmethod
    def read(cls, models: Sequence[str], loras: Sequence[str]) -> Offer:
        """The models and LoRAs of an operator's lists.

        Raises:
            UserError: one is not there, or two have one name.
        """
        return cls(models=known(models), loras=_loras(loras))

    def of(self, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Model:
        """The model that a request names, else that of the settings so far, else the first.

        Raises:
            Refused: clients may not ask for it.
        """
        if "model" in given or "model" not in settings:
            name = given.get("model", next(iter(self.models)))
            if isinstance(name, str) and name in self.models:
                return self.models[name]
            raise Refused(
                404,
                f"There is no model {words_of(name)} here; there are {', '.join(self.models)}.",
                "model_not_found",
                "model",
            )
        model = self.by_setting(settings)
        if model is None:
            raise Refused(
                409,
                "The video is of a model that this server does not offer; name another one.",
                "model_not_offered",
                "model",
            )
        return model

    def by_setting(self, settings: Mapping[str, Any]) -> Model | None:
        """The model of a job; None where clients may not ask for it."""
        setting = settings.get("model", EMBEDDED)
        return next((each for each in self.models.values() if each.setting == setting), None)


def _loras(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        path = Path(each).absolute()
        if not path.exists():
            raise UserError(f"loras: {each} is not there. Name a file or folder of this machine.")
        name = path.stem if path.suffix == ".safetensors" else path.name
        if name in found:
            raise UserError(
                f"loras: {found[name]} and {each} would both be {name} to clients. Rename one, or "
                "leave it out."
            )
        found[name] = str(path)
    return found
