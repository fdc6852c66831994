"""Files of clients, and the room that there is for them."""

import asyncio
import errno
import json
import os
import time

import pytest

from t2v.errors import UserError

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.serve.errors import Refused, on_disk, on_mistake
from t2v.serve.uploads import LEFT, Limits, drop_old, keep


def test_files_beyond_the_room_for_them_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(11))
    with pytest.raises(Refused) as error:
        keep(b"x", "mask", tmp_path, Limits(seconds=1, room=10))
    assert (error.value.status, error.value.code) == (507, "storage_full")
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


def test_files_that_a_killed_server_left_are_removed(tmp_path):
    for name in ("needed", "new", "old"):
        (tmp_path / name).touch()
    past = time.time() - LEFT - 1
    for name in ("needed", "old"):
        os.utime(tmp_path / name, (past, past))
    drop_old(tmp_path, {str(tmp_path / "needed")})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["needed", "new"]


def test_a_full_disk_is_told_as_such():
    full = OSError(errno.ENOSPC, "No space left on device", "/secret")
    mistake = UserError("/secret: cannot be changed")
    mistake.__cause__ = full
    for answer in (on_disk(None, full), on_mistake(None, mistake)):
        told = asyncio.run(answer)
        assert told.status_code == 507 and b"/secret" not in told.body
        assert json.loads(told.body)["error"]["code"] == "storage_full"
    assert asyncio.run(on_mistake(None, UserError("busy"))).status_code == 409
    with pytest.raises(PermissionError):
        asyncio.run(on_disk(None, PermissionError()))
