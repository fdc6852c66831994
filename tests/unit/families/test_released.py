"""`offload=text`: encoders are gone before transformers come, and the videos are the same."""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2v.cli import main
from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.io.video import read_recipe, read_video
from t2v.models.hold import Hold, has_weights
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.generator import sample_videos
from t2v.pipelines.released import embed_first
from t2v.pipelines.visuals import VisualInputs

from .tiny import BUILDERS, build

PROMPT, CPU = "a red ball", torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("wan_flf", {"text_encoder", "image_encoder"}),
        ("hunyuan", {"text_encoder", "text_encoder_2"}),
        ("kandinsky", {"text_encoder", "text_encoder_2"}),
    ],
)
def test_encoders_are_gone_when_a_transformer_is_read(
    name, gone, tokenizer, text_encoder, wake, tmp_path
):
    build(name, {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake).save_pretrained(
        tmp_path
    )
    height, width, frames = BUILDERS[name][1]
    sizes = dict(height=height, width=width, num_frames=frames, num_inference_steps=2)
    refs: list[weakref.ref] = []

    def asked(generator):
        picture = np.full((height, width, 3), 200, dtype=np.uint8)
        seen = {each: picture for each in ("image", "last_image") if each in generator.takes}
        return replace(generator.defaults, **sizes), [VisualInputs(**seen) if seen else None]

    def embed(generator):
        for part in gone:
            refs.extend(
                weakref.ref(each) for each in getattr(generator.pipeline, part).parameters()
            )
        assert not has_weights(generator.pipeline.transformer)
        embed_first(generator, [PROMPT], *asked(generator))

    def arrived(kind, part, network):
        if part == "transformer" and refs:
            assert all(each() is None for each in refs)

    def draw(hold):
        about = {"hold": hold, "embed": embed, "adapt": arrived}
        generator = load_generator("x", tmp_path, CPU, torch.float32, "a test", **about)
        request, seen = asked(generator)
        (latents,) = sample_videos(generator, [PROMPT], [0], request, visuals=seen)
        return generator, request, seen, latents

    *_, plain = draw(Hold())
    generator, request, seen, latents = draw(Hold(offload="text"))
    parts = generator.pipeline.components.items()
    networks = {each: part for each, part in parts if isinstance(part, torch.nn.Module)}
    assert {each for each, part in networks.items() if not has_weights(part)} == gone and refs
    assert torch.equal(latents, plain)
    with pytest.raises(UserError, match=r"text_encoder is released.* Give offload=model"):
        list(sample_videos(generator, ["a blue box"], [0], request, visuals=seen))


STORY = """windows: {overlap: 0}
scenes:
- {prompt: a red ball, seconds: 1}
- {prompt: a green box, seconds: 1, start: cut}
"""


def test_prompts_of_a_run_and_scenes_are_embedded_first_and_a_stopped_video_goes_on(
    pipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("model")

    def sample(*words):
        code = main(["sample", *words, "device=cpu"])
        return code, capsys.readouterr().err

    asked = [PROMPT, "a green box", "--negative-prompt", "blue", "--model", "model"]
    for name in ("none", "text"):
        code, err = sample(*asked, "-o", f"{name}.mp4", f"offload={name}", "--num-videos", "2")
        assert code == 0, err
    before, frames = (
        [read_video(Path(f"{name}{number}.mp4"))[0] for number in ("", "-1", "-2", "-3")]
        for name in ("none", "text")
    )
    assert all(map(np.array_equal, frames, before)) and not np.array_equal(*before[:2])
    forward, calls = T2VTransformer3DModel.forward, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(T2VTransformer3DModel, "forward", stopped)
        words = [*asked[:1], *asked[2:], "-o", "a.mp4", "offload=text", "--preview-every", "1"]
        code, err = sample(*words)
    assert code == 130 and "1 of 2 steps are kept" in err
    code, err = sample("--resume", "a.latents.safetensors")
    assert code == 0 and np.array_equal(read_video(Path("a.mp4"))[0], before[0]), err
    assert read_recipe(Path("a.mp4"))["settings"]["offload"] == "text"
    Path("story.yaml").write_text(STORY)
    for name in ("none", "text"):
        told = ["--story", "story.yaml", "--model", "model", "-o", f"story-{name}.mp4"]
        code, err = sample(*told, f"offload={name}")
        assert code == 0, err
    films = [read_video(Path(f"story-{name}.mp4"))[0] for name in ("none", "text")]
    assert np.array_equal(*films) and len(films[0]) == 16
