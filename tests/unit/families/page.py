"""The tables of `docs/models.md`, which tests compare with what tiny pipelines did."""

from pathlib import Path

COLUMNS = (
    *("frames", "fps", "length", "resume", "preview", "LoRA", "takes beside text", "plan"),
    "fine-tune",
)
VARIANTS = {  # of a class whose pipelines differ
    "wan_a14b": "A14B",
    "wan_5b": "TI2V-5B",
    "wan_5b_i2v": "TI2V-5B",
    "wan_i2v": "with a CLIP",
    "wan_flf": "FLF2V",
    "cogvideox": "1.0",
    "cogvideox_15": "1.5",
}
# classes of transformers that `test_plan_peers.py` plans and counts, and the pipeline that has one
PLANNED = {
    "WanTransformer3DModel": "wan_i2v",
    "WanVACETransformer3DModel": "vace",
    "SkyReelsV2Transformer3DModel": "forcing",
    "LTXVideoTransformer3DModel": "ltx",
    "CogVideoXTransformer3DModel": "cogvideox_15",
    "MochiTransformer3DModel": "mochi",
    "HunyuanVideoTransformer3DModel": "hunyuan",
    "HunyuanVideo15Transformer3DModel": "hunyuan_15",
    "Kandinsky5Transformer3DModel": "kandinsky",
    "SanaVideoTransformer3DModel": "sana",
}
TEXT = (Path(__file__).parents[3] / "docs/models.md").read_text()


def label(name: str, pipeline: str) -> str:
    """The row of a tiny pipeline: its class, and which of several it is."""
    return f"`{pipeline}`" + (f" ({VARIANTS[name]})" if name in VARIANTS else "")


def rows() -> dict[str, dict[str, str]]:
    """The cells of each row of the first table, by its label and column."""
    lines = [line for line in TEXT.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]
    return {first: dict(zip(COLUMNS, rest, strict=True)) for first, *rest in cells}


def notes() -> dict[str, str]:
    """The notes below the table by their letters."""
    lines = [line for line in TEXT.splitlines() if line.startswith("- (")]
    return {line[2:5]: line[6:] for line in lines}


def compare(name: str, pipeline: str, found: dict[str, str]) -> None:
    """Compare cells that were found by running with the page, which an error shows anew."""
    row = rows().get(label(name, pipeline), {})
    known = {column: row.get(column) for column in found}
    shown = " | ".join(found.values())
    assert known == found, f"docs/models.md: | {label(name, pipeline)} | {shown} |"
