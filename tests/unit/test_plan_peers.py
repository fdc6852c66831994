"""`t2v plan sample` of other packages' pipelines, from their config files alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from t2v.bench.stopwatch import count_flop
from t2v.cli import main
from t2v.config.finetune import FinetuneConfig
from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.models.wan_vae import AutoencoderKLWan
from t2v.pipelines.visuals import VisualInputs
from t2v.plan.estimate import estimate
from t2v.plan.figures import GIB, SPARE
from t2v.plan.peers import described, known_sizes
from t2v.plan.report import report
from t2v.plan.run import plan
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size

from .families.page import PLANNED
from .families.tiny import BUILDERS, build

SIZE = Size(batch=1, frames=9, height=32, width=48, tokens=12)


@pytest.fixture
def folder(wan, tmp_path) -> Path:
    """The config files of a pipeline, without its weights."""
    wan.transformer = type(wan.transformer).from_config({**wan.transformer.config, "num_layers": 5})
    wan.save_pretrained(tmp_path / "wan")
    for path in (tmp_path / "wan").rglob("*.safetensors"):
        path.unlink()
    shutil.rmtree(tmp_path / "wan/tokenizer")
    return tmp_path / "wan"


def test_weights_are_those_of_the_pipeline_and_flop_those_of_its_call(wan, folder):
    target = SampleConfig(model=str(folder), num_inference_steps=3, dtype="fp32", device="cpu")
    planned = estimate(target, SIZE, UNKNOWN)
    networks = (wan.text_encoder, wan.transformer, wan.vae)
    assert planned.weights == sum(p.nbytes for each in networks for p in each.parameters())
    text, _ = torch.zeros(1, 12, 32), AutoencoderKLWan.of(wan.vae)

    def draw() -> None:
        wan(
            prompt_embeds=text, negative_prompt_embeds=text, max_sequence_length=12,
            height=32, width=48, num_frames=9, num_inference_steps=3, output_type="np",
        )  # fmt: skip

    _, denoise, decode = planned.phases
    assert denoise.times == 3 and denoise.passes == 2
    assert 3 * denoise.flop + decode.flop == count_flop(draw)


ONE_OF_EACH = (*PLANNED.values(), "wan_5b")  # class of transformers
# planned FLOP of the transformer, as a multiple of the counted, where they are not equal
NEAR = {
    "mochi": (1, 4),  # a prompt's own words alone are attended to, the plan takes the longest
    "kandinsky": (1, 110),  # and here they are most of the work
    "hunyuan_15": (0.3, 1),  # by the formula, without tokens of pictures and glyphs
}


def counting(forward, counted):
    """A network's own `forward` that also notes the FLOP of each call."""

    def run(*args, **kwargs):
        found = []
        counted.append(count_flop(lambda: found.append(forward(*args, **kwargs))))
        return found[0]

    return run


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_each_family_is_counted_as_its_own_call_runs(
    name, tokenizer, text_encoder, wake, tmp_path, monkeypatch
):
    pipeline = build(name, {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    pipeline.save_pretrained(tmp_path / "model")
    assert type(pipeline.transformer).__name__ in PLANNED  # whose rows of the page say yes
    generator = FamilyGenerator(pipeline)
    height, width, frames = BUILDERS[name][1]
    asked = replace(
        generator.defaults, height=height, width=width, num_frames=frames, num_inference_steps=2
    )
    picture = torch.zeros(1, 3, height, width)
    seen = VisualInputs(image=picture) if "image" in generator.takes else None
    counted: list[int] = []
    networks = [each for each in pipeline.components.values() if isinstance(each, nn.Module)]
    for each in networks:
        if type(each) is type(pipeline.transformer):
            monkeypatch.setattr(each, "forward", counting(each.forward, counted))
    generator.generate(generator.encode(["a ball"], asked, [seen]), asked, [0])
    target = SampleConfig(
        model=str(tmp_path / "model"), num_inference_steps=2, dtype="fp32", device="cpu"
    )
    rows = known_sizes(tmp_path / "model")["max_sequence_length"]
    planned = estimate(target, Size(1, frames, height, width, rows), UNKNOWN)
    denoise = 2 * planned.phases[1].flop / sum(counted)
    least, most = NEAR.get(name, (1, 1))
    assert least <= denoise <= most
    assert planned.weights == sum(p.numel() * 4 for each in networks for p in each.parameters())


def test_a_plan_needs_config_files_alone_and_lists_the_ways_that_fit(folder, capsys):
    size = ["num_frames=9", "height=64", "width=64"]
    assert main(["plan", "sample", f"model={folder}", "memory=24", *size]) == 0
    told = capsys.readouterr().out
    for words in ("9 frames of 64 x 64, 512 text tokens", "group offload", "It fits", "x 1.00"):
        assert words in told
    target = SampleConfig(model=str(folder), num_frames=9, height=64, width=64)
    least = plan(PlanConfig(command="sample", memory=24), target).rungs[-1].needs.most
    done = plan(PlanConfig(command="sample", memory=(least + 16) / SPARE / GIB), target)
    assert not done.holds(done.peak) and done.rung == done.rungs[-1]
    assert f"It fits by {done.rung.name}" in report(done) and not done.remedies
    held = replace(target, offload="group", quantize="fp8", vae_tiling=False)
    asked = plan(PlanConfig(command="sample", memory=24), held)
    assert "beside Python's own by group offload, fp8" in report(asked)
    assert least <= asked.peak.most < done.peak.most


def test_no_size_is_tried_that_a_family_cannot_make(tokenizer, text_encoder, tmp_path):
    text = {"tokenizer": tokenizer, "text_encoder": text_encoder}
    build("ltx", text, lambda part: part).save_pretrained(tmp_path)
    target = SampleConfig(model=str(tmp_path), num_inference_steps=2)
    size = {"num_frames": 17, "height": 64, "width": 64}
    done = plan(PlanConfig(command="sample", memory=0.01, **size), target)
    assert "None of these is enough" in report(done) and len(done.remedies) > 1
    for remedy in done.remedies:
        sizes = dict(each.split("=") for each in remedy.words.split() if each[-1].isdigit())
        assert int(sizes["num_frames"]) % 8 == 1
        assert int(sizes["height"]) % 32 == 0 and int(sizes["width"]) % 32 == 0
    with pytest.raises(UserError, match="height=48: LTXPipeline makes multiples of 32 pixels"):
        plan(PlanConfig(command="sample", memory=1, height=48), target)
    tuned = FinetuneConfig(model=str(tmp_path), data="clips", output="tuned")
    with pytest.raises(UserError, match="of t2v and of Wan, and this is a LTXPipeline"):
        plan(PlanConfig(command="finetune"), tuned)


def test_a_part_without_its_config_is_one_message(folder):
    (folder / "vae/config.json").unlink()
    with pytest.raises(UserError, match=r"vae/config\.json"):
        described(folder)


def test_a_card_that_is_not_here_is_not_measured_and_neither_are_other_pipelines(folder):
    target = SampleConfig(model=str(folder))
    with pytest.raises(UserError, match="no such card is here to be measured"):
        plan(PlanConfig(command="sample", memory=24, verify=True), target)
    with pytest.raises(UserError, match="calibrate and verify measure models of t2v"):
        plan(PlanConfig(command="sample", verify=True), target)
