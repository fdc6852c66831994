"""Weights that wait on the disk or in fewer bits: the same videos, or nearly, and one message."""

import gc
import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.models.hold import Hold, check_hold
from t2v.pipelines.generator import sample_videos

PROMPT, CPU = "a red ball", torch.device("cpu")


@pytest.fixture
def draw(tmp_path, pipe, wan):
    """The frames and latents of a saved tiny pipeline that is held in some way."""
    pipe.save_pretrained(tmp_path / "ours")
    wan.save_pretrained(tmp_path / "wan")

    def draw(model, hold):
        folder = tmp_path / model
        generator = load_generator(model, folder, CPU, torch.float32, "a test", hold=hold)
        size = {} if model == "ours" else {"height": 16, "width": 16, "num_frames": 5}
        asked = replace(generator.defaults, num_inference_steps=2, upscale=1, **size)
        (latents,) = sample_videos(generator, [PROMPT], [0], asked)
        return generator, latents, generator.decode(latents, asked.num_frames)

    return draw


@pytest.mark.parametrize("model", ["ours", "wan"])
def test_weights_that_wait_on_the_disk_give_the_same_video_and_go_with_the_model(
    model, draw, tmp_path, monkeypatch
):
    _, plain, frames = draw(model, Hold())
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    for offload in ("group", "leaf"):
        generator, latents, shown = draw(model, Hold(offload=offload))
        if model == "ours":  # others compute with weights as their files happen to lie
            assert torch.equal(latents, plain) and (shown == frames).all()
        torch.testing.assert_close(latents, plain, rtol=1e-4, atol=1e-4)
        waiting = sum(path.stat().st_size for path in disk.rglob("*.safetensors"))
        transformer = generator.pipeline.transformer
        assert waiting > sum(each.numel() * 4 for each in transformer.parameters())
        del generator, transformer
        gc.collect()
        assert not list(disk.iterdir())


def test_eight_bits_give_nearly_the_same_latents_and_their_error_is_told(draw, caplog):
    _, plain, _ = draw("ours", Hold())
    caplog.set_level("INFO")
    generator, latents, _ = draw("ours", Hold(quantize="fp8", offload="group"))
    for part in (generator.pipeline.text_encoder, generator.pipeline.transformer):
        assert torch.float8_e4m3fn in {each.dtype for each in part.parameters()}
    told = re.search(r"layers in the transformer are off by ([\d.]+) %", caplog.text)
    assert told and 1 < float(told[1]) < 5  # e4m3 has steps of 1/8 to 1/16 of a number
    assert 0 < (latents - plain).norm() / plain.norm() < 0.1


def test_networks_are_read_once(draw, monkeypatch):
    read = []
    for kind in (WanTransformer3DModel, AutoencoderKLWan):
        method = kind.from_pretrained.__func__

        def counted(cls, *args, method=method, **options):
            read.append(cls.__name__)
            return method(cls, *args, **options)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(counted))
    draw("wan", Hold())
    assert sorted(read) == ["AutoencoderKLWan", "WanTransformer3DModel"]


@pytest.mark.parametrize(
    ("hold", "fault"),
    [
        (
            Hold(quantize="int8"),
            "needs torchao, which is not installed: pip install",
        ),
        (Hold(quantize="nf4"), "needs bitsandbytes, which is not installed"),
        (Hold(offload="model"), "the device is the CPU, whose memory the weights would wait in"),
    ],
)
def test_what_cannot_be_held_here_is_said(hold, fault, monkeypatch):
    monkeypatch.setattr("t2v.models.hold.find_spec", lambda package: None)
    with pytest.raises(UserError, match=fault):
        check_hold(hold, CPU)


def test_weights_of_other_packages_do_not_move_in_pieces(monkeypatch):
    monkeypatch.setattr("t2v.models.hold.find_spec", lambda package: ModuleType(package))
    assert "torchao" not in sys.modules
    with pytest.raises(UserError, match="do not move in pieces"):
        check_hold(Hold(quantize="int8", offload="group"), CPU)
