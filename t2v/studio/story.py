"""The page on which stories are written: films of several scenes, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from t2v.config.serve import StudioConfig
from t2v.config.story import StoryConfig, WindowsConfig, read_story, stored_story
from t2v.errors import UserError
from t2v.io.text_files import MOST_YAML, Plain, parse_yaml
from t2v.serve.body import read
from t2v.serve.errors import Refused
from t2v.serve.videos import Videos
from t2v.studio.pages import Pages

FILE = "story.yaml"
NUMBER = re.compile(r"scene (\d+)")
MOST_SHOWN = 200  # scenes of a file with a mistake
SHOWN = ("prompt", "seconds", "start")  # of a scene, as the page edits it


def story_of(pages: Pages, videos: Videos, config: StudioConfig) -> list[BaseRoute]:
    """The paths of that page: itself, and story files read and written."""

    def story(request: Request) -> Response:
        return pages.page(request, "story.html.j2", models=[*videos.models.values()], limits=config)

    async def opened(request: Request) -> JSONResponse:
        body = await request.body()
        if len(body) > 4 * MOST_YAML:
            raise Refused(413, f"A story file has {4 * MOST_YAML:,} bytes at most.", "too_large")
        return JSONResponse(await run_sync(read_file, body))

    async def saved(request: Request) -> Response:
        values = await read(request, 4 * MOST_YAML, ("scenes",))
        text = await run_sync(written, values.get("scenes"))
        headers = {"Content-Disposition": f'attachment; filename="{FILE}"'}
        return Response(text, media_type="application/yaml", headers=headers)

    return [
        Route("/story", story, methods=["GET"]),
        Route("/story/open", opened, methods=["POST"]),
        Route("/story/save", saved, methods=["POST"]),
    ]


def read_file(body: bytes) -> dict[str, Any]:
    """The scenes of a story file, and what is wrong with it.

    Returns:
        `scenes`, as they are edited, and `wrong`: null, or `message` and the `scene` that it is
        about, from 0, or null. Of a file with a mistake, scenes hold what was written.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        file.write_bytes(body)
        try:
            story = read_story(file)
            _refuse_files(story)
        except UserError as error:
            message = str(error).replace(f"--story {file}", FILE).replace(str(file), FILE)
            return {"scenes": _roughly(body), "wrong": _wrong(message)}
    scenes = [{name: getattr(scene, name) for name in SHOWN} for scene in story.scenes]
    return {"scenes": scenes, "wrong": None}


def _refuse_files(story: StoryConfig) -> None:
    """Raise `UserError` for what a browser cannot bring, or a page cannot set."""
    for number, scene in enumerate(story.scenes, 1):
        if scene.image is not None:
            raise UserError(
                f"scene {number}: image names a file of another machine. `t2v queue add --story` "
                "takes it; leave it out here."
            )
    if story.windows != WindowsConfig():
        raise UserError(
            "windows: are not set on this page. `t2v queue add --story` takes them; leave them out "
            "here."
        )


def _wrong(message: str) -> dict[str, Any]:
    found = NUMBER.search(message)
    return {"message": message, "scene": None if found is None else int(found[1]) - 1}


def _roughly(body: bytes) -> list[dict[str, Any]]:
    """The scenes of a file with a mistake, as far as they can be shown."""
    try:
        values = parse_yaml(body.decode(), FILE)
    except (UserError, UnicodeDecodeError):
        return []
    scenes = values.get("scenes") if isinstance(values, Mapping) else None
    scenes = scenes[:MOST_SHOWN] if isinstance(scenes, list) else []
    found = [each if isinstance(each, Mapping) else {} for each in scenes]
    return [{name: _text(scene.get(name)) for name in SHOWN} for scene in found]


def _text(value: Any) -> str:
    text = value.text if isinstance(value, Plain) else value
    return text if isinstance(text, str) else ""


def written(scenes: Any) -> str:
    """A story file of scenes, which `read_story` reads back.

    Raises:
        Refused: they are no story.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        story = stored_story({"scenes": scenes}, FILE)
        _refuse_files(story)
    except UserError as error:
        number = _wrong(str(error))["scene"]
        start = "" if number is None else f"scenes[{number}] "
        raise Refused(400, f"{start}{error}", "invalid_value", "scenes") from error
    values = [
        {name: value for name in SHOWN if (value := getattr(scene, name)) is not None}
        for scene in story.scenes
    ]
    text: str = yaml.safe_dump({"scenes": values}, sort_keys=False, allow_unicode=True)
    return text
