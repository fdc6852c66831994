"""Prompts as they are embedded: an alternative of each chosen, and written anew where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from t2v.config.prompting import PromptingConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError

if TYPE_CHECKING:
    from t2v.config.story import StoryConfig


@dataclass(frozen=True)
class Wording:
    """The prompt of one video.

    Args:
        prompt: as it is embedded.
        seed: of the video.
        written: as it was given, where that is something else.
    """

    prompt: str
    seed: int
    written: str | None = None


def wordings(config: SampleConfig, prompts: Sequence[str]) -> list[Wording]:
    """The prompt of each video, before any is written anew: `num_videos_per_prompt` a prompt.

    Raises:
        UserError: a template stands for too much, or a prompt that is to be written anew has signs.
    """
    seeds = [config.seed + n * config.best_of for n in range(config.num_videos_per_prompt)]
    if not config.prompting.rewords:
        return [Wording(prompt, seed) for prompt in prompts for seed in seeds]
    from t2v.prompting import templates  # most prompts are taken as they stand
    from t2v.prompting.embed import scenes_of
    from t2v.prompting.syntax import has_signs

    found = []
    for written in prompts:
        is_all = config.prompting.templates == "all"
        for prompt in templates.all_of(written) if is_all else [written]:
            for seed in seeds:
                own = prompt
                if config.prompting.syntax and not is_all:
                    own = templates.pick(prompt, torch.Generator().manual_seed(seed))
                found.append(Wording(own, seed, None if own == written else written))
    for each in found:
        scenes = scenes_of(each.prompt, config.prompting)
        if config.prompting.rewrite and has_signs(scenes):
            raise UserError(
                f"prompt {each.prompt[:60]!r}: has weights, blends or times, which do not outlive "
                "a rewriting. Leave them out, or prompting.rewrite."
            )
    return found


def rewritten(config: PromptingConfig, found: Sequence[Wording]) -> list[Wording]:
    """Prompts written anew by the model that settings name; see `Rewriter`.

    Raises:
        UserError: the model cannot be read or reached.
    """
    if not config.rewrite:
        return list(found)
    from t2v.prompting.embed import scenes_of
    from t2v.prompting.rewrite import Rewriter  # few prompts are written anew
    from t2v.prompting.syntax import escaped

    rewriter, known = Rewriter.of(config), dict[str, str]()
    for text in dict.fromkeys(each.prompt for each in found):
        (scene,) = scenes_of(text, config)
        plain = scene.clauses[0].text
        answer = rewriter.rewrite(plain)
        if answer == plain:
            known[text] = text
        else:
            known[text] = escaped(answer) if config.syntax else answer
    made = []
    for each in found:
        prompt = known[each.prompt]
        first = each.written or each.prompt
        made.append(replace(each, prompt=prompt, written=None if prompt == first else first))
    return made


def worded_story(story: StoryConfig, config: SampleConfig) -> StoryConfig:
    """A story as its scenes are embedded: of `{a|b}` the alternative that the film's seed picks.

    Each scene picks for itself, so scenes that name the same alternatives get the same ones.

    Raises:
        UserError: a scene cannot be read, has times of its own, or is to be written anew or made
            of every alternative.
    """
    if config.prompting.rewrite or config.prompting.templates == "all":
        raise UserError(
            "prompting.rewrite or prompting.templates=all with --story: a story is one film of the "
            "scenes in its file. Leave them out."
        )
    if not config.prompting.syntax:
        return story
    from t2v.prompting.embed import refuse_times
    from t2v.prompting.templates import pick

    scenes = [
        replace(each, prompt=pick(each.prompt, torch.Generator().manual_seed(config.seed)))
        for each in story.scenes
    ]
    refuse_times([each.prompt for each in scenes], config.prompting)
    return replace(story, scenes=tuple(scenes))


def refuse_rewording(config: PromptingConfig) -> None:
    """Raise `UserError` where a recipe, or who makes its video again, asks for another prompt."""
    if config != config.as_made():
        raise UserError(
            "A recipe has its prompt as it was made: leave prompting.rewrite, prompting.templates "
            "and what goes with them out."
        )
