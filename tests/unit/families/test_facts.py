"""Facts that a server tells of models of other packages."""

import pytest

from t2v.families.generator import FamilyGenerator
from t2v.serve.facts import learn
from t2v.serve.models import known

from .tiny import build

pytestmark = pytest.mark.slow


def test_what_files_do_not_tell_is_asked_of_the_code(tmp_path, tokenizer, text_encoder):
    text = {"tokenizer": tokenizer, "text_encoder": text_encoder}
    pipelines = {
        name: build(name, text, lambda part: part) for name in ("wan", "vace", "ltx", "wan_flf")
    }
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(tmp_path / name)
    models = known([str(tmp_path / name) for name in pipelines])
    assert {model.takes for model in models.values()} == {None}
    learn(models).join(300)
    for name, pipeline in pipelines.items():
        own, model = FamilyGenerator(pipeline), models[name]
        asked = own.defaults
        assert own.takes <= model.takes
        assert (model.width, model.num_frames, model.fps) == (
            *(asked.width, asked.num_frames, asked.fps),
        )
        assert (model.steps, model.guidance) == (
            *(asked.num_inference_steps, asked.guidance_scale),
        )
    assert learn(models) is None
