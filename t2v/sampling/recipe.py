"""Recipes: the prompt, settings, weights and versions that make a video again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from t2v.config.load import load_config
from t2v.config.prompting import PromptingConfig
from t2v.config.sampling import INPUTS, VISUAL, SampleConfig, one_or_more
from t2v.errors import UserError, shortened
from t2v.io import text_files
from t2v.io.addresses import shown_in
from t2v.io.files import EMBEDDED_MODELS, write_text
from t2v.io.text_files import is_text
from t2v.models.folder import file_hash, is_pipeline

MOST_JSON = 2**24  # bytes of a recipe: one has some thousand
# settings that a recipe holds where they are otherwise, as earlier recipes have none
UNSAID: dict[str, Any] = {
    "attention_layout": None,
    "lora_part": None,
    "lora_fit": "strict",
    "lora_preset": None,
    "shift": None,
    "reference_images": None,
    "grid": False,
    "base": None,
    "compile": False,
    "token_merging": 0.0,
    "motion": (),
    "parallel": "auto",
    "engine": "local",
    "workers": None,
    "max_error": None,
    "min_psnr": None,
    "calibration": None,
    "cache": "none",
    "cache_ratios": (),
    "guidance_interval": (),
    "prompting": {},
    "codes": {},
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The samples of one prompt that a video was chosen from, and the score of each.

    Args:
        first_seed: the samples have this seed and the next `best_of - 1`.
        scorer: where the scorer is.
        name: the scorer's kind and weights.
        keep_draws: keep every sample as a file of its own.
        scores: by seed, of the samples that are finished.
    """

    best_of: int
    first_seed: int
    scorer: str
    name: str
    keep_draws: bool
    scores: dict[str, float] = field(default_factory=dict)

    def scored(self, seed: int, score: float) -> Choice:
        """The same with one more sample."""
        return replace(self, scores=self.scores | {str(seed): score})

    @property
    def left(self) -> list[int]:
        """The seeds still to be sampled."""
        seeds = range(self.first_seed, self.first_seed + self.best_of)
        return [seed for seed in seeds if str(seed) not in self.scores]

    @property
    def best(self) -> int:
        """The seed of the highest score, the first of equal ones."""
        return int(max(self.scores, key=self.scores.__getitem__))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One video: the prompt, its own settings with every default filled in, and the versions.

    Args:
        settings: of this video alone: its seed, its file, one video.
        weights: `weights_hash` of the pipeline folder.
        lora: `file_hash` of each LoRA.
        upscaler: `upscaler_hash` of the pipeline folder, where it enlarged the video.
        scheduler: `scheduler_hash` of the pipeline folder.
        device: kind of the device that made it.
        versions: of t2v and the packages that do the arithmetic; on a CPU also its `threads`.
        choice: the samples it was chosen from, with `best_of`.
        inputs: SHA-256 of each picture and clip, by the setting that names it.
        written: the prompt before an alternative of it was picked, or a model wrote it anew.
    """

    prompt: str
    settings: SampleConfig
    weights: str
    device: str
    versions: dict[str, str]
    lora: tuple[str, ...] = ()
    upscaler: str | None = None
    scheduler: str | None = None
    choice: Choice | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    written: str | None = None

    @property
    def path(self) -> Path:
        """The file of the video."""
        assert self.settings.output is not None
        return Path(self.settings.output)

    @property
    def words(self) -> str:
        """The prompt without its signs."""
        if not self.settings.prompting.reads:
            return self.prompt
        from t2v.prompting.embed import words_of  # few prompts have any

        return words_of(self.prompt, self.settings.prompting)

    def with_seed(self, seed: int, choice: Choice) -> Recipe:
        """The recipe of one of the samples of a choice."""
        return replace(self, settings=replace(self.settings, seed=seed), choice=choice)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the mp4 and in the file beside it.

        What was made of a prompt alone reads as it did when there was nothing else.
        """
        values = asdict(self)
        for name in SampleConfig.ONE_OR_MORE:
            values["settings"][name] = one_or_more(values["settings"][name])
        if not self.inputs:
            del values["inputs"]
            for name in VISUAL:
                del values["settings"][name]
        values["lora"] = one_or_more(self.lora)
        for name, usual in (("prompting", asdict(PromptingConfig())), ("codes", {})):
            told = values["settings"][name].items()
            values["settings"][name] = {n: each for n, each in told if each != usual.get(n)}
        for name, unsaid in UNSAID.items():
            if values["settings"].get(name, ...) == unsaid:
                del values["settings"][name]
        for name in ("upscaler", "scheduler", "written"):
            if values[name] is None:
                del values[name]
        return values | {"settings": shown_in(values["settings"])}


def read(values: Any, source: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `values`, with `overrides` (`name=value`) over its settings.

    What a recipe of a later version holds beside its settings is let be; a setting that is not
    known is refused, as the video would be another one.

    Raises:
        UserError: something is missing, of another type, out of range or does not fit; names
            `source`.
    """
    if not isinstance(values, dict) or not isinstance(values.get("settings"), dict):
        raise UserError(f"{source}: holds no recipe of `t2v sample` (settings is missing).")
    for name, (is_right, wanted) in FIELDS.items():
        if name not in values and name not in OPTIONAL:
            raise UserError(f"{source}: holds no recipe of `t2v sample` ({name} is missing).")
        if not is_right(values.get(name)):
            given = shortened(repr(values.get(name)))
            raise UserError(f"{source}: {name} of its recipe is {given} and should be {wanted}.")
    rest = {name: values.get(name) for name in FIELDS}
    rest["inputs"] = rest["inputs"] or {}
    hashes = rest["lora"] or ()  # one stands alone
    rest["lora"] = (hashes,) if isinstance(hashes, str) else tuple(hashes)
    stored = dict(values["settings"])
    stored.setdefault("upscale", 1)  # earlier versions had no upscaler
    stored.setdefault("offload", "none")  # nor offloading
    stored.pop("overwrite", None)  # is for whoever gives the command to say, not for a file
    try:
        settings = load_config(SampleConfig, None, (), stored)
        choice = _choice(values["choice"]) if values.get("choice") is not None else None
    except UserError as error:
        raise UserError(f"{source}: its recipe is damaged. {error}") from error
    if overrides:
        settings = load_config(SampleConfig, None, overrides, stored)
    return Recipe(settings=settings, choice=choice, **cast(dict[str, Any], rest))


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_text(each) and len(each) < 100 for pair in value.items() for each in pair
    )


def _are_hashes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name.partition("[")[0] in INPUTS and _is_hash(each) for name, each in value.items()
    )


HASH = re.compile("[0-9a-f]{64}")
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (lambda value: is_text(value) and bool(value.strip()), "a text"),
    "written": (lambda value: value is None or is_text(value), "a text"),
    "weights": (_is_hash, "64 hexadecimal digits"),
    "device": (lambda value: is_text(value) and len(value) < 100, "a text, such as cpu"),
    "versions": (_are_versions, "the version of each package, as texts"),
    "lora": (
        lambda value: value is None or all(map(_is_hash, value if _is_list(value) else [value])),
        "64 hexadecimal digits, or a list of such",
    ),
    "upscaler": (lambda value: value is None or _is_hash(value), "64 hexadecimal digits"),
    "scheduler": (lambda value: value is None or _is_hash(value), "64 hexadecimal digits"),
    "inputs": (
        lambda value: value is None or _are_hashes(value),
        f"64 hexadecimal digits for each of {', '.join(INPUTS)}",
    ),
}
OPTIONAL = (
    "lora",
    "upscaler",
    "scheduler",
    "inputs",
    "written",
)  # recipes of before there were any have none


def _choice(values: Any) -> Choice:
    """The choice of a recipe.

    Raises:
        UserError: a field is missing, not known, of another type, or contradicts another one.
    """
    if not isinstance(values, dict):
        raise UserError(f"choice: {shortened(repr(values))} should be an object.")
    known = {each.name: each.default_factory is MISSING for each in fields(Choice)}
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"choice: {shortened(repr(unknown[0]))} is none of {', '.join(known)}.")
    if missing := [name for name, needed in known.items() if needed and name not in values]:
        raise UserError(f"choice: {', '.join(missing)} is missing.")
    choice = Choice(**values)
    numbers = (choice.best_of, choice.first_seed)
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in numbers):
        raise UserError("choice: best_of and first_seed should be whole numbers.")
    for name, low, high in (("best_of", 1, 10**6), ("first_seed", 0, 2**63 - choice.best_of)):
        if not low <= getattr(choice, name) <= high:
            given = shortened(getattr(choice, name))
            raise UserError(f"choice: {name}={given}: it must be from {low} to {high}.")
    if not (is_text(choice.scorer) and is_text(choice.name)):
        raise UserError("choice: scorer and name should be texts.")
    if not isinstance(choice.keep_draws, bool) or not isinstance(choice.scores, dict):
        raise UserError("choice: keep_draws should be true or false, scores an object.")
    seeds = range(choice.first_seed, choice.first_seed + choice.best_of)
    for seed, score in choice.scores.items():
        is_score = isinstance(score, int | float) and not isinstance(score, bool)
        if not (seed.isascii() and seed.isdigit() and len(seed) < 20 and int(seed) in seeds):
            raise UserError(f"choice: {shortened(repr(seed))} is the seed of none of its samples.")
        if not is_score or not -1e9 < score < 1e9:
            raise UserError(f"choice: the score {shortened(repr(score))} is no number.")
    return choice


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        UserError: the file cannot be read.
    """
    return text_files.read_json(path, most=MOST_JSON)


def refuse_fetching(recipe: Recipe, source: Path, renamed: set[str]) -> None:
    """Raise `UserError` for what a recipe may not cause by itself: a download, or other weights.

    The embedded model is always there. A folder or LoRA file here is used if it holds the very
    weights that the recipe names. A download must be asked for.

    Args:
        renamed: the settings that the user named again, and may name freely.

    Raises:
        UserError: names what to give.
    """
    asked = recipe.settings
    if "model" not in renamed and asked.model not in EMBEDDED_MODELS:
        folder = Path(asked.folder)
        if not is_pipeline(folder):
            raise UserError(
                f"{source}: names model={shortened(asked.folder)}, which is not here, and a recipe "
                "fetches nothing. Give it with --model to use it."
            )
    if "lora" not in renamed:
        refuse_other_loras(asked, lora_hashes(asked), recipe.lora)
    if "attention" not in renamed and "hub" in asked.attention:
        raise UserError(
            f"{source}: names attention={shortened(asked.attention)}, whose code comes from the "
            "Hub, and a recipe fetches nothing. Give it with --attention to use it."
        )
    choice = recipe.choice
    if choice and choice.left and "scorer" not in renamed and not Path(choice.scorer).is_dir():
        raise UserError(
            f"{source}: names scorer={shortened(choice.scorer)}, which is not here, and a recipe "
            "fetches nothing. Give it with scorer=FOLDER_OR_HUB_ID to use it."
        )


def input_hashes(config: SampleConfig) -> dict[str, str]:
    """The SHA-256 of each picture and clip that settings name.

    Raises:
        UserError: a file is missing or no regular one.
    """
    if not config.files:
        return {}
    from t2v.sampling.reading import hashes  # most videos are of a prompt alone

    return hashes(config)


def lora_hashes(config: SampleConfig) -> tuple[str, ...]:
    """The `file_hash` of each LoRA, named by its file or folder.

    Raises:
        UserError: there is no such file, or it is a pipe or the like.
    """
    if not config.lora:
        return ()
    from t2v.models.lora import lora_files  # few videos have one

    found = []
    for files in lora_files(config.lora, config.lora_part):
        hashes = [file_hash(file) for file in files.values()]
        both = hashlib.sha256("".join(hashes).encode()).hexdigest()
        found.append(hashes[0] if len(hashes) == 1 else both)
    return tuple(found)


def refuse_other_loras(
    config: SampleConfig, hashes: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    """Raise `UserError` where a LoRA is not the file that a recipe has the hash of."""
    for number, source in enumerate(config.lora):
        if hashes[number : number + 1] != wanted[number : number + 1]:
            raise UserError(f"lora={source}: not the file it was. Name the right one.")


def write_json(path: Path, recipe: Recipe) -> None:
    """Write a recipe as JSON.

    Raises:
        UserError: the place cannot be written.
    """
    write_values(path, recipe.to_json())


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write what a recipe holds as JSON.

    Raises:
        UserError: the place cannot be written.
    """
    try:
        write_text(path, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
