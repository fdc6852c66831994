"""The site of these pages: laid out as the repository is, so that links mean the same in both."""

from __future__ import annotations

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

BESIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "assets/t2v-tiny/README.md",
    "assets/t2v-tiny-distilled/README.md",
    "assets/t2v-tiny-references/README.md",
    "assets/world-scorer/README.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the pages into `docs/`, the README and others beside it, and a page for each notebook."""
    root = Path(config.docs_dir).parent
    for file in list(files):
        if file.src_dir != config.docs_dir:  # the theme's own
            continue
        files.remove(file)
        place, path = f"docs/{file.src_uri}", file.abs_src_path
        files.append(File.generated(config, place, abs_src_path=path))
        if place.endswith(".ipynb"):
            text = page_of(Path(path), Path(place).name)
            files.append(File.generated(config, place.replace(".ipynb", ".md"), content=text))
    for name in BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(
    markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files
) -> str | None:
    """Lead links to a notebook to its page, except those of that page itself."""
    return None if "/notebooks/" in page.file.src_uri else markdown.replace(".ipynb)", ".md)")


def page_of(notebook: Path, name: str) -> str:
    """The cells of a notebook as Markdown; no cell of a stored one has outputs."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            code = text.removeprefix("%%bash\n")
            text = f"```{'python' if code == text else 'bash'}\n{code}\n```"
        parts.append(text)
    parts.insert(1, f"This page is [a notebook]({name}) without its pictures: run it to see them.")
    return "\n\n".join(parts) + "\n"
