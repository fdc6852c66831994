"""`t2v plan`: its figures are those of the real model, exactly where arithmetic can be exact."""

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from t2v.bench.pipeline import PROMPT
from t2v.bench.stopwatch import count_flop
from t2v.cli import main
from t2v.cli.plan import load_plan
from t2v.config.finetune import FinetuneConfig
from t2v.config.models import TransformerConfig, VAEConfig
from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import DiscriminatorConfig, OptimConfig, TrainDiTConfig, TrainVAEConfig
from t2v.errors import UserError
from t2v.plan.calibrate import calibrated
from t2v.plan.estimate import MANY_LAYERS, estimate, traced_whole
from t2v.plan.figures import DEFAULTS, GIB, MIB, SPARE, Estimate, Measured
from t2v.plan.models import CARDS
from t2v.plan.remedies import smaller
from t2v.plan.report import RUN, comparison, report
from t2v.plan.run import micro_steps, plan
from t2v.plan.trace import UNKNOWN, Rates, traced
from t2v.plan.validation import DRAW
from t2v.plan.work import EMBED
from t2v.plan.workload import ENCODE, UPDATE, build
from t2v.sampling.run import load
from t2v.training.engine.example import Size

SIZE = Size(batch=2, frames=5, height=32, width=32, tokens=6)
STEP = "forward and backward"
DEVICE = {"tflops": 100.0, "bandwidth": 1000.0}
ROOT = Path(__file__).parents[2]


def phase(work, name):
    return next(each for each in work.phases if each.name == name)


@pytest.fixture
def training(pipe, tmp_path) -> TrainDiTConfig:
    """A tiny training whose VAE and text encoder are saved and whose data is not there yet."""
    pipe.save_pretrained(tmp_path / "model")
    model = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=8,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=1,
    )
    folder = str(tmp_path / "model")
    return TrainDiTConfig(
        output=str(tmp_path / "run"),
        data="nowhere",
        vae=folder,
        text=folder,
        model=model,
        batch_size=2,
        max_sequence_length=12,
        attention="_native_math",
    )


@pytest.fixture
def vae_training(tmp_path) -> TrainVAEConfig:
    model = VAEConfig(latent_channels=4, patch_size=(2, 4, 4), block_out_channels=(16, 16))
    return TrainVAEConfig(output=str(tmp_path / "run"), data="nowhere", model=model, batch_size=2)


def test_a_trace_knows_the_bytes_the_flop_and_the_seconds_of_each_operation():
    rates = Rates(matmul=1e3, convolution=1e3, attention=1e3, memory=1e3, launch=1.0)
    with traced(rates) as trace:
        x = torch.ones(100, 100)
        with trace.phase() as usage:
            y = x @ x
            z = (y + 1).T.contiguous()[3:]  # a sum, and then a copy of it
            del y
        assert trace.live == 2 * 40_000
        assert usage.peak == 4 * 40_000
        assert usage.flop == 2 * 100**3
        assert usage.seconds == pytest.approx(2e6 / 1e3 + 80_000 / 1e3 + 80_000 / 1e3 + 3)
        del z
        assert trace.live == 40_000


def test_a_trace_leaves_no_tensor_without_content_behind(training, vae_training):
    def fakes():
        gc.collect()
        return [each for each in gc.get_objects() if issubclass(type(each), FakeTensor)]

    before = fakes()  # of tests that ran in this process and keep theirs
    tuning = FinetuneConfig(output="run", model=training.vae, data="nowhere", batch_size=2)
    sampling = SampleConfig(model=training.vae, device="cpu")
    for target in (training, replace(training, objective="v"), vae_training, tuning, sampling):
        estimate(target, SIZE, UNKNOWN)
    known = {id(each) for each in before}
    assert not [each for each in fakes() if id(each) not in known]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bytes_of_weights_gradients_state_and_average_are_those_of_the_real_training(
    training, name
):
    target = replace(training, optim=OptimConfig(name=name))
    planned, work = estimate(target, SIZE, UNKNOWN), build(target, SIZE)
    phase(work, STEP).run()
    grads = [p.grad for part in work.parts.values() for p in part.parameters()]
    assert planned.gradients == sum(each.nbytes for each in grads if each is not None)
    phase(work, UPDATE).run()
    assert planned.weights == work.weights()
    assert planned.average == work.average()
    assert planned.optimizer == work.optimizer() > 0
    counts = {k: sum(p.numel() for p in part.parameters()) for k, part in work.parts.items()}
    assert planned.parameters == counts


def test_many_layers_are_a_line_over_few(training):
    model = replace(training.model, num_layers=MANY_LAYERS + 1)
    target = replace(training, model=model, text="none", vae="none", gradient_checkpointing=True)
    whole = traced_whole(target, SIZE, UNKNOWN)
    line = estimate(target, SIZE, UNKNOWN)
    assert line.weights == whole.weights
    assert line.parameters == whole.parameters
    assert line.optimizer == whole.optimizer
    assert phase(line, STEP).flop == phase(whole, STEP).flop
    for name in (STEP, UPDATE):
        assert phase(line, name).peak == pytest.approx(phase(whole, name).peak, rel=0.01)


def test_clips_are_encoded_beside_the_weights_alone(training):
    planned = estimate(training, SIZE, UNKNOWN)
    learning = phase(planned, STEP).held - phase(planned, ENCODE).held
    assert learning == pytest.approx(planned.average + planned.optimizer, rel=0.01)


def test_gradients_of_earlier_batches_are_held_through_a_later_one(training):
    planned = estimate(replace(training, accumulate=3), SIZE, UNKNOWN)
    first, more = phase(planned, STEP), phase(planned, "with gradients held")
    assert (first.times, more.times) == (training.steps, 2 * training.steps)
    assert more.held == pytest.approx(first.held + planned.gradients, rel=0.01)


def test_kernels_of_gpus_take_what_the_native_one_takes(training):
    native, flash = (
        estimate(replace(training, device="cuda", attention=name), SIZE, UNKNOWN)
        for name in ("native", "flash")
    )
    assert native == flash


def test_muon_keeps_half_the_state_of_adamw(training):
    adamw, muon = (
        estimate(replace(training, optim=OptimConfig(name=name)), SIZE, UNKNOWN).optimizer
        for name in ("adamw", "muon")
    )
    assert adamw / 2 < muon < adamw


def test_flop_are_those_torch_counts_on_the_real_step(training, vae_training):
    for target in (training, vae_training):
        planned, work = estimate(target, SIZE, UNKNOWN), build(target, SIZE)
        for traced_, real in zip(planned.phases, work.phases, strict=True):
            if real.name == DRAW:  # the first layers of a process try its matrix products
                real.run()
            assert traced_.flop == count_flop(real.run), real.name


@pytest.mark.parametrize(("guidance", "upscale"), [(1.0, None), (3.0, 1)])
def test_flop_of_sampling_are_those_torch_counts_on_a_real_call(guidance, upscale):
    pipeline = load(SampleConfig(dtype="fp32", device="cpu"), [])[0].pipeline
    pipeline.set_progress_bar_config(disable=True)
    target = SampleConfig(
        guidance_scale=guidance,
        num_inference_steps=3,
        upscale=upscale,
        dtype="fp32",
        device="cpu",
    )
    size = Size(batch=1, frames=9, height=32, width=48, tokens=len(PROMPT.split()) + 1)
    planned = estimate(target, size, UNKNOWN)

    def draw() -> None:
        pipeline(
            PROMPT,
            negative_prompt=PROMPT,  # as the plan takes it, both are of one length
            height=size.height,
            width=size.width,
            num_frames=size.frames,
            num_inference_steps=3,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(0),
            upscale=upscale,
        )

    draw()  # the first layers of a process try its matrix products
    assert sum(each.flop * each.times for each in planned.phases) == count_flop(draw)


def test_an_enlarged_video_takes_more_and_leaving_it_out_is_advised():
    own = SampleConfig(device="cpu", num_frames=17, dtype="bf16")
    small = PlanConfig(command="sample", memory=0.2, **DEVICE)
    large, plain = plan(small, own), plan(small, replace(own, upscale=1))
    assert large.estimate.parameters["upscaler"] > 1e5
    decoding, enlarging = plain.estimate.phases[-1], large.estimate.phases[-1]
    assert enlarging.peak > decoding.peak + 16 * 17 * 64 * 64 * 3 * 4  # the frames themselves
    assert "enlarged to 256 x 256" in report(large) and "decode, enlarge" in report(large)
    assert "enlarged" not in report(plain)
    assert [remedy.words for remedy in large.remedies] == ["upscale=1"] and not plain.remedies


def test_checkpointing_and_flash_attention_take_less(training):
    size = replace(SIZE, frames=17, height=64, width=64)
    rises = {}
    model = replace(training.model, num_layers=2)
    training = replace(training, model=model, text="none", vae="none")
    for kernel in ("native", "_native_math"):
        for checkpointing in (False, True):
            target = replace(training, attention=kernel, gradient_checkpointing=checkpointing)
            rises[kernel, checkpointing] = phase(estimate(target, size, UNKNOWN), STEP).rise
    assert rises["native", True] < rises["native", False] < rises["_native_math", False]
    assert rises["_native_math", True] < rises["_native_math", False]


def test_decoding_streams_at_flat_memory(training):
    target = SampleConfig(model=training.vae, device="cpu")
    beside = []
    for frames in (41, 81):
        decode = estimate(target, Size(1, frames, 64, 64, 6), UNKNOWN).phases[-1]
        beside.append(decode.peak - decode.held)
    assert beside[1] == pytest.approx(beside[0], rel=0.1)


@pytest.fixture
def three(training) -> list[Estimate]:
    """Of a quarter, of half and of all of a size."""
    sizes = [replace(SIZE, batch=batch) for batch in (2, 4, 8)]
    target = replace(training, text="none", vae="none")
    return [estimate(target, size, Rates(1e9, 1e9, 1e9, 1e9)) for size in sizes]


def test_measurements_twice_the_trace_double_the_plan(three):
    small, half, whole = three
    default = DEFAULTS["cpu"]

    def twice(step):
        top = max(step.phases, key=lambda each: each.peak)
        peak = default.scratch + top.held + 2 * (top.peak - top.held)
        return Measured(peak, {each.name: 2 * each.seconds for each in step.phases})

    correction = calibrated(whole, [(small, twice(small)), (half, twice(half))], default)
    assert correction.heap.value == pytest.approx(2)
    first = phase(whole, STEP)
    assert whole.seconds(first, correction).value == pytest.approx(2 * first.seconds)
    assert whole.seconds(first, correction).error == pytest.approx(0.3 * first.seconds)


def test_a_share_that_does_not_grow_lies_within_the_error(three):
    small, half, whole = three
    default, constant = DEFAULTS["cpu"], phase(half, STEP).seconds / 2

    def slow(step):
        peak = default.scratch + max(each.peak for each in step.phases)
        return Measured(peak, {each.name: each.seconds + constant for each in step.phases})

    correction = calibrated(whole, [(small, slow(small)), (half, slow(half))], default)
    planned = whole.seconds(phase(whole, STEP), correction)
    truth = phase(whole, STEP).seconds + constant
    assert planned.value > truth > planned.value - planned.error


def test_what_does_not_fit_is_told_with_a_change_that_does(training):
    roomy = {"command": "train", "num_frames": 17, "height": 64, "width": 64, **DEVICE}
    target = replace(
        training, device="cpu", batch_size=64, attention="native", text="none", vae="none"
    )
    done = plan(PlanConfig(memory=1.0, **roomy), target)
    assert done.holds(done.peak)
    assert "It fits" in report(done)
    need = done.estimate.peak(DEFAULTS["cpu"]).most / 2**30
    tight = plan(PlanConfig(memory=need * 0.8, **roomy), target)
    text = report(tight)
    assert "It does NOT fit" in text
    last = tight.remedies[-1]
    assert tight.holds(last.peak)
    assert f"{last.words}: " in text
    for part in ("parameters", "optimizer", "latents of a clip", "TFLOP/s", "+-"):
        assert part in text


def test_a_part_that_is_not_there_is_named_and_the_rest_is_planned(training):
    target = replace(training, text="elsewhere", vae="nowhere", parallel="fsdp")
    config = PlanConfig(command="train", height=32, width=32, num_frames=5, **DEVICE)
    text = report(plan(config, target))
    assert "not counted  the text encoder: elsewhere" in text
    assert "not counted  the VAE: nowhere" in text
    assert "not counted  parallel=fsdp" in text


def test_a_lora_learns_little_beside_the_model_it_is_added_to(training):
    target = FinetuneConfig(output="run", model=training.vae, data="nowhere", batch_size=2)
    lora = estimate(target, SIZE, UNKNOWN)
    full = estimate(replace(target, method="full"), SIZE, UNKNOWN)
    assert lora.weights > full.weights > full.gradients > lora.gradients > 0
    assert lora.optimizer == pytest.approx(2 * lora.gradients, rel=0.01)
    assert phase(lora, STEP).peak < phase(full, STEP).peak


def test_a_soft_prompt_learns_through_the_text_encoder(training):
    target = FinetuneConfig(output="run", model=training.vae, data="nowhere", batch_size=2)
    alone = estimate(replace(target, method="soft_prompt", soft_prompt="a toy"), SIZE, UNKNOWN)
    table = build(target, SIZE).parts["text_encoder"].get_input_embeddings().weight
    assert alone.gradients == table.nbytes
    assert phase(alone, STEP).flop > phase(estimate(target, SIZE, UNKNOWN), STEP).flop / 2


def test_a_discriminator_is_counted_and_a_network_of_features_is_named(vae_training):
    plain = estimate(vae_training, SIZE, UNKNOWN)
    other = replace(
        vae_training, perceptual="somewhere", discriminator=DiscriminatorConfig(weight=0.1)
    )
    both = estimate(other, SIZE, UNKNOWN)
    added = both.parameters["discriminator"] * 4
    assert both.weights == plain.weights + added
    assert both.gradients == plain.gradients + added
    assert phase(both, STEP).flop > phase(plain, STEP).flop
    assert both.absent == ("the network of features: perceptual=somewhere",)


def test_sizes_nobody_knows_are_asked_for(training):
    with pytest.raises(UserError, match="height, width: neither given"):
        plan(PlanConfig(command="train", num_frames=5, **DEVICE), training)


def test_the_file_and_the_settings_go_to_whom_they_belong():
    file = ROOT / "configs/train/tiny.yaml"
    own, target = load_plan(file, ["command=train", "height=64", "batch_size=3", "memory=2"])
    assert (own.height, own.memory, target.batch_size) == (64, 2.0, 3)
    own, target = load_plan(None, ["command=sample", "num_frames=9"])
    assert own.num_frames == target.num_frames == 9
    with pytest.raises(UserError, match="no setting 'colour'"):
        load_plan(None, ["command=sample", "colour=red"])


def test_what_can_never_run_is_one_message(training):
    sizes = {"num_frames": 5, "height": 32, "width": 32, **DEVICE}
    for change, message in (
        ({"in_channels": 4}, "model.in_channels=4, but vae=.* is 8 wide. Set model.in_channels=8"),
        ({"text_dim": 64}, "model.text_dim=64, but text=.* is 32 wide"),
    ):
        target = replace(training, model=replace(training.model, **change))
        with pytest.raises(UserError, match=message):
            plan(PlanConfig(command="train", **sizes), target)
    with pytest.raises(UserError, match="attention_head_dim=7: it must be even"):
        replace(training.model, attention_head_dim=7)
    with pytest.raises(UserError, match='The attention backend "flish" does not run'):
        plan(PlanConfig(command="train", **sizes), replace(training, attention="flish"))
    with pytest.raises(UserError, match="text_tokens=13, but the model takes at most 12"):
        plan(PlanConfig(command="train", text_tokens=13, **sizes), training)
    with pytest.raises(UserError, match="num_frames=6 does not fit"):
        plan(PlanConfig(command="train", **{**sizes, "num_frames": 6}), training)
    with pytest.raises(UserError, match="command=encode: command takes sample"):
        load_plan(None, ["command=encode"])


def test_a_device_smaller_than_the_model_is_told_so(training):
    target = replace(training, text="none", vae="none")
    tiny = PlanConfig(command="train", num_frames=5, height=32, width=32, memory=1e-4, **DEVICE)
    text = report(plan(tiny, replace(target, batch_size=1)))
    assert "It does NOT fit" in text
    assert "take a larger device or a smaller model" in text


def test_without_room_for_two_micro_steps_none_is_run(training):
    with pytest.raises(UserError, match=r"calibrate=true: even .* MiB there are"):
        micro_steps(training, SIZE, UNKNOWN, allowed=2**20)


def test_half_a_device_is_a_mistake_that_is_named():
    with pytest.raises(UserError, match="give both"):
        PlanConfig(command="train", tflops=100)
    with pytest.raises(UserError, match="memory=0"):
        PlanConfig(command="train", memory=0)


def test_a_training_on_a_card_lists_what_takes_less_memory_for_more_time(training):
    target = replace(training, batch_size=4, text="none", vae="none", precision="fp32")
    size = {"num_frames": 17, "height": 64, "width": 64}
    rungs = plan(PlanConfig(command="train", memory=24, **size), target).rungs
    needs, seconds = [each.needs.most for each in rungs], [each.seconds for each in rungs]
    assert needs == sorted(set(needs), reverse=True) and seconds == sorted(seconds)
    assert [rung.name for rung in rungs] == [
        "as it is", "gradient_checkpointing=true",
        "gradient_checkpointing=true batch_size=1 accumulate=4",
    ]  # fmt: skip
    tight = PlanConfig(command="train", memory=(needs[1] + 16) / SPARE / GIB, **size)
    done = plan(tight, target)
    assert done.rung == done.rungs[1] and not done.remedies
    assert "It fits by gradient_checkpointing=true" in report(done)


def test_a_cards_memory_holds_no_encoder_whose_work_is_done(training):
    tuning = FinetuneConfig(output="run", model=training.vae, data="nowhere", batch_size=2)
    here, there = (
        estimate(replace(tuning, device=each), SIZE, UNKNOWN) for each in ("cpu", "cuda")
    )
    parts = {part.name: part.weights for part in there.parts}
    text = parts["text_encoder"]
    for name, away in (
        (EMBED, parts["transformer"]), (STEP, parts["vae"]), (DRAW, 0)
    ):  # fmt: skip
        assert phase(here, name).held - phase(there, name).held == away
    assert phase(here, STEP).held - phase(here, EMBED).held < phase(here, STEP).held - text


def test_steps_shrink_until_they_cannot():
    size = Size(4, 17, 64, 64)
    shapes = [size := smaller(size) for _ in range(7)]
    assert [each.batch for each in shapes[:2]] == [2, 1]
    assert [each.frames for each in shapes[2:4]] == [9, 5]
    assert shapes[-1] == smaller(shapes[-1])


RUN_AND_MEASURE = """
import re, sys
from pathlib import Path
import peft, t2v.plan.run, t2v.training.tasks.finetune as tasks  # code is not counted
from t2v.config.finetune import FinetuneConfig
from t2v.config.load import load_config

def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = resident("VmRSS")
tasks.finetune(load_config(FinetuneConfig, None, sys.argv[1:]))
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "calibrate"), [("lora", "true"), ("full", "false")])
def test_a_plan_counts_all_that_a_run_does(method, calibrate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["world", "output=clips", "count=24"]) == 0
    given = [
        *("data=clips", "output=run", f"method={method}", "batch_size=8", "held_out=4"),
        *("steps=3", "validate_every=2", "save_every=2", "sheet.steps=2", "optim.warmup_steps=0"),
        "device=cpu",
    ]
    run = [sys.executable, "-c", RUN_AND_MEASURE, *given]
    alone = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=alone)
    size = ["num_frames=17", "height=64", "width=64", f"calibrate={calibrate}"]
    planned = plan(*load_plan(None, ["command=finetune", *given, *size]))
    measured = int(done.stdout.splitlines()[-1])
    assert (planned.peak.value + planned.data) / MIB == pytest.approx(measured / MIB, rel=0.15)


@pytest.mark.slow
def test_a_lora_of_wan_13b_is_planned_under_16_gib_from_config_files(tmp_path):
    card = json.loads((CARDS / "wan21-1.3b.json").read_text())
    for name, content in card["files"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    target = FinetuneConfig(output="run", model=str(tmp_path), data="nowhere", batch_size=1)
    size = {"num_frames": 33, "height": 480, "width": 832}
    done = plan(PlanConfig(command="finetune", memory=16, **size), target)
    assert done.rung.settings == {"gradient_checkpointing": "true"}
    assert 12 * GIB < done.rung.needs.most < 13 * GIB
    assert done.disk["a checkpoint"] < GIB / 2


WORLD = ["vae=assets/t2v-tiny/vae", "text=assets/t2v-tiny", "data=nowhere", "text_tokens=20"]
WIDE = ["model.num_layers=8", "model.num_attention_heads=8", "attention=native"]
GATE = {
    "transformer": ["train", *WORLD, "num_frames=17", "height=64", "width=64", "batch_size=32"],
    "wide": [
        *("train", *WORLD, *WIDE, "gradient_checkpointing=true"),
        *("num_frames=33", "height=96", "width=96", "batch_size=4"),
    ],
    "vae": ["train-vae", "data=nowhere", "num_frames=17", "height=64", "width=64"],
    "sample": ["sample", "num_frames=65", "height=96", "width=96"],
}


@pytest.mark.slow
@pytest.mark.parametrize("given", GATE.values(), ids=GATE)
def test_calibrated_plans_meet_the_measured_step(given, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # processor time is then the step's
    file = ROOT / f"configs/{given[0]}/tiny.yaml"
    given = [f"command={given[0]}", "calibrate=true", "verify=true", *given[1:]]
    done = plan(*load_plan(file if file.is_file() else None, given))
    rows = {name: (planned.value, measured) for name, planned, measured in comparison(done)}
    planned, measured = rows["peak memory"]
    assert planned / MIB == pytest.approx(measured / MIB, rel=0.15)
    planned, measured = rows[RUN]
    assert planned == pytest.approx(measured, rel=0.25)
