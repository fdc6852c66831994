"""The table of a model: what each setting costs and brings, in a file beside its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from t2v.acceleration.reading import typed
from t2v.config.caching import check_acceleration
from t2v.config.checks import within_range
from t2v.errors import UserError, shortened
from t2v.io.files import write_text
from t2v.io.text_files import read_json
from t2v.pipelines.generator import Request

FILE = "acceleration.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that leave work of the denoising out, in the words of `SampleConfig`."""

    num_inference_steps: int | None
    cache: str = "none"
    cache_ratios: tuple[float, ...] = ()
    guidance_interval: tuple[float, ...] = ()
    token_merging: float = 0.0

    def __str__(self) -> str:
        said = [f"{self.num_inference_steps} steps"]
        said += [self.cache] if self.cache != "none" else []
        if self.guidance_interval:
            said.append("guidance from {:g} to {:g}".format(*self.guidance_interval))
        if self.token_merging:
            said.append(f"token_merging={self.token_merging:g}")
        return ", ".join(said)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The price of a setting, and its gain.

    Args:
        error: relative error of the latents, the median of the prompts.
        most_error: the bound of it for unseen prompts, see `t2v.acceleration.bounds`.
        psnr: dB of the frames to the exact film, the median.
        least_psnr: its bound for unseen prompts.
        speed: times as fast as the exact denoising, the median; with its interval.
    """

    error: float
    most_error: float
    psnr: float
    least_psnr: float
    speed: float
    speed_low: float
    speed_high: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting with its figures, or with the reason why the model cannot be run so.

    Args:
        quality: by suite and column, the difference from the exact films, and its verdict, as
            `t2v eval compare` has them.
    """

    setting: Setting
    measured: Measured | None = None
    reason: str | None = None
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The video that a table is measured for, as it is without anything left out.

    Args:
        weights, scheduler: hashes of the folder's.
        size: frames, height and width.
    """

    weights: str
    scheduler: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str
    size: tuple[int | None, int | None, int | None]

    def __str__(self) -> str:
        frames, height, width = self.size
        said = f"{frames} frames of {height}x{width}, {self.num_inference_steps} steps, guidance "
        said += "none" if self.guidance_scale is None else f"{self.guidance_scale:g}"
        return said + (
            f", negative prompt {self.negative_prompt!r}" if self.negative_prompt else ""
        )


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one kind of video.

    Args:
        prompts: that were measured.
        share, confidence: of the bounds.
        on: device and number format.
        versions: of the packages that computed.
    """

    exact: Exact
    prompts: int
    share: float
    confidence: float
    on: str
    versions: dict[str, str]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class _File:
    format: int
    tables: tuple[Table, ...]


def exact_of(asked: Request, weights: str, scheduler: str | None) -> Exact:
    """The video that its table is found by."""
    return Exact(
        weights=weights,
        scheduler=scheduler,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        negative_prompt=asked.negative_prompt,
        size=(asked.num_frames, asked.height, asked.width),
    )


def read_tables(path: Path) -> list[Table]:
    """The tables of a file; none where it is not there.

    Raises:
        UserError: it is a folder, or holds something else: what is missing, of another type, or a
            setting that no video can have.
    """
    if not path.exists():
        return []
    values = read_json(path)
    if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path}: is of format {shortened(values['format'])}, and this t2v reads {FORMAT}. "
            "Make it anew with `t2v calibrate`."
        )
    try:
        tables = typed(_File, values).tables
        for number, table in enumerate(tables, 1):
            _check_rows(table, f"table {number}")
    except UserError as error:
        raise UserError(
            f"{path}: holds no table of `t2v calibrate` ({error}). Give another file, or make it "
            "anew."
        ) from error
    return list(tables)


def write_table(path: Path, table: Table) -> None:
    """Put a table into a file, in the place of one of the same video. Those of other weights leave.

    Raises:
        UserError: the file holds something else, or cannot be written.
    """
    others = [
        each
        for each in read_tables(path)
        if each.exact != table.exact and each.exact.weights == table.exact.weights
    ]
    values = {"format": FORMAT, "tables": [asdict(each) for each in (*others, table)]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Give output=FILE.json, and to "
            "`t2v sample` calibration=FILE.json."
        ) from error


def worth_it(rows: Sequence[Row]) -> list[int]:
    """The places of the rows faster than the exact path whose bounds no faster one
    has."""
    chosen: list[int] = []
    least = float("inf")
    ran = [(each.measured, index) for index, each in enumerate(rows) if each.measured]
    for measured, index in sorted(ran, key=lambda each: -each[0].speed_low):
        if measured.speed_low > 1 and measured.most_error < least:
            least = measured.most_error
            chosen.append(index)
    return chosen


def _check_rows(table: Table, where: str) -> None:
    """Raise `UserError` where a setting that was measured is none that a video can have."""
    for number, row in enumerate(table.rows, 1):
        setting = row.setting
        if row.measured is None:
            continue
        try:
            check_acceleration(setting)
            within_range("token_merging", setting.token_merging)
            if setting.num_inference_steps is not None:
                within_range("num_inference_steps", setting.num_inference_steps)
        except UserError as error:
            raise UserError(f"{where}, row {number}: {str(error).rstrip('.')}") from error


def rounded(row: Row) -> Row:
    """The row with figures of five digits, as files and tables show them."""
    if row.measured is None:
        return row
    short = {
        each.name: float(f"{getattr(row.measured, each.name):.5g}") for each in fields(Measured)
    }
    ratios = tuple(float(f"{each:.6g}") for each in row.setting.cache_ratios)
    return replace(
        row, measured=Measured(**short), setting=replace(row.setting, cache_ratios=ratios)
    )
