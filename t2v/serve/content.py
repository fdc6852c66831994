"""Files as answers, whole or in parts."""

from __future__ import annotations

import os

from anyio.to_thread import run_sync
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from t2v.serve.errors import Refused, answer

FAULTS = {
    400: ("The Range of the request cannot be read; give bytes=FIRST-LAST.", "invalid_range"),
    416: ("The file has no such part; Content-Range tells its length.", "range_not_satisfiable"),
}


class File(FileResponse):
    """A file, or the part of it that a request asks for; what cannot be sent is refused in JSON."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.stat_result = await run_sync(os.stat, self.path)
        except FileNotFoundError as error:
            raise Refused(404, "The file is there no more.", "file_not_found") from error
        self.set_stat_headers(self.stat_result)
        refused: Refused | None = None

        async def sent(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in FAULTS:
                told = [value for name, value in message["headers"] if name == b"content-range"]
                headers = {"Content-Range": told[0].decode()} if told else {}
                words, code = FAULTS[message["status"]]
                refused = Refused(message["status"], words, code, "range", headers)
            elif refused is None:
                await send(message)

        await super().__call__(scope, receive, sent)
        if refused is not None:
            await answer(refused)(scope, receive, send)
