"""Jobs as clients see them, whatever their files hold."""

import json
from dataclasses import fields

import pytest

from t2v.config.sampling import SampleConfig
from t2v.queue.folder import Queue

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.serve.offer import Offer
from t2v.serve.videos import Videos

HOSTILE = (None, True, -1, 10**4000, 1e308, "x\u202e", "/etc/passwd", [[]], [None, 3], {"a": []})


def test_a_job_file_of_any_content_is_shown_without_its_paths(tmp_path):
    videos = Videos(Queue.make(tmp_path / "queue"), Offer.read(["t2v-tiny"], []))
    names = {each.name for each in fields(SampleConfig)} - {"negative_prompt", "fit"}
    for number, name in enumerate(sorted(names)):
        for place, value in enumerate(HOSTILE):
            settings = {"width": 64, "height": 64, name: value}
            file = videos.queue.folder / f"queued/{number:08d}{place:08d}-{place:032x}.json"
            file.write_text(json.dumps({"prompt": "a ball", "settings": settings}))
        for job, _ in [videos.listed(None, 100, "desc")]:
            assert len(job) == len(HOSTILE)
            for each in job:
                shown = json.dumps(videos.shown(each))
                assert "/etc" not in shown and str(tmp_path) not in shown, (name, shown)
                videos.queue.delete(each.id, "deleted")
