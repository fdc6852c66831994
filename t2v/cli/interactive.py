"""`t2v sample --interactive`: prompts from standard input, one a line, with the model ready."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2v.cli.commands import brought
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError, shortened
from t2v.io.addresses import shown

# what may differ from line to line: nothing that the weights are loaded for
PER_LINE = (
    *("seed", "height", "width", "num_frames", "duration", "fps", "num_inference_steps"),
    *("guidance_scale", "upscale", "best_of", "num_videos_per_prompt", "output", "overwrite"),
    *("max_error", "min_psnr", "calibration", "guidance_interval", "token_merging"),
)
SETTING = re.compile(r"(\w+)=(\S*)")
LONGEST = 4000  # characters of a message

Parse = Callable[[list[str]], SampleConfig]


def check_interactive(config: SampleConfig) -> None:
    """Raise `UserError` where a setting needs all prompts before the first video."""
    if config.offload == "text":
        raise UserError(
            "offload=text: embeds all prompts before the first video, and --interactive does not "
            "know them. Give offload=group, or a file of prompts with --prompt-file."
        )


def interact(
    config: SampleConfig,
    parse: Parse,
    overrides: Sequence[str],
    load: Callable[..., Any],
    sample: Callable[..., list[Path]],
) -> None:
    """Make the videos of each line as it comes, and print their paths, up to an empty line.

    A line is a prompt, and `name=value` at its end settings of its own; all that follows `--` is a
    prompt. What goes wrong with a line is told, and the next one is read.

    Args:
        config: of all lines, as the weights are to be held.
        parse: the settings of overrides.
        overrides: those of the command line.
        load: that of a `t2v.sampling.engine.Engine`.
        sample: `t2v.sampling.run.sample`.

    Raises:
        UserError: at the end, where some lines made no video.
    """
    load(config, [])
    if sys.stdin.isatty():
        print("Ready: a prompt a line, an empty line ends.", file=sys.stderr)
    made = lines = failed = 0
    for line in sys.stdin.buffer:
        if not line.strip():
            break
        lines += 1
        try:
            prompt, own = _read_line(line)
            asked = _settings_of(config, parse([*overrides, *own]), own, made)
            with brought(asked, reads=False):  # which the command did
                paths = sample(asked, [prompt], load)
        except UserError as error:
            failed += 1
            print(f"t2v: line {lines}: {shortened(shown(error), LONGEST)}", file=sys.stderr)
            continue
        made += len(paths)
        print(*map(shown, paths), sep="\n", flush=True)
    if failed:
        raise UserError(f"{failed} of {lines} lines made no video; each is told above.")


def _read_line(line: bytes) -> tuple[str, list[str]]:
    """The prompt of a line, and the settings at its end."""
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"is no UTF-8 text (byte {error.start + 1}). Write it in UTF-8.") from error
    if text.startswith("--"):
        return text[2:].strip(), []
    own: list[str] = []
    words = text.split()
    while words and (match := SETTING.fullmatch(words[-1])):
        if match[1] not in PER_LINE:
            raise UserError(
                f"{words[-1]}: no setting of a line. Allowed at its end: {', '.join(PER_LINE)}. "
                "Others go on the command line; a prompt that ends so begins with --."
            )
        own.insert(0, words.pop())
        text = text[: text.rindex(own[0])].rstrip()
    if not text:
        raise UserError("has settings and no prompt. Say what the video should show.")
    return text, own


def _settings_of(
    config: SampleConfig, parsed: SampleConfig, own: Sequence[str], made: int
) -> SampleConfig:
    """The settings of a line: its own where it has them; the video after `made` others, by name."""
    asked = replace(config, **{name: getattr(parsed, name) for name in PER_LINE})
    if made and asked.output is not None and not any(each.startswith("output=") for each in own):
        from t2v.sampling.output_paths import output_paths
        from t2v.sampling.results import spelled

        asked = replace(asked, output=spelled(output_paths(asked.output, made + 1)[-1]))
    return asked
