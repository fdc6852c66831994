"""`t2v distill` on tiny parts: what the student learns from, how it is saved, what it refuses."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UniPCMultistepScheduler
from safetensors.torch import load_file

from t2v.bench.stopwatch import count_flop
from t2v.cli import main
from t2v.config.distill import DistillConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.training import OptimConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.models.folder import weights_hash
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.distill_work import DECODE, FILMS, OWN, PASS
from t2v.plan.estimate import estimate
from t2v.plan.sizes import planned_size
from t2v.plan.trace import UNKNOWN
from t2v.plan.work import EMBED
from t2v.plan.workload import BACKWARD, UPDATE
from t2v.training.engine.loop import fit, start_state
from t2v.training.tasks.distill import build_distill, distill
from t2v.training.tasks.finetune import build_finetune

SIDES = ("num_frames", "height", "width")
PROMPTS = ("a red ball", "a blue box", "the ball under the sky", "a box on the snow")


@pytest.fixture
def config(pipe, tmp_path):
    pipe.register_to_config(num_frames=5, height=16, width=32, guidance_scale=2.0)
    pipe.register_to_config(num_inference_steps=4)
    pipe.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return DistillConfig(
        device="cpu", model=str(tmp_path / "teacher"), prompts=str(tmp_path / "prompts.txt"),
        output=str(tmp_path / "student"), pairs=10, held_out=3, steps=4, batch_size=3,
        save_every=2, validate_every=2, precision="fp32",
        optim=OptimConfig(name="adamw", adam_lr=3e-3, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def made(pipe, steps, seed=0):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    told = {"num_inference_steps": steps, "output_type": "latent"}
    return pipe("a red ball", generator=generator, **told).frames


def student_of(task):
    """The pipeline as it is after steps that were not saved."""
    return task.pipeline.to("cpu")


def test_films_are_those_of_the_teacher_at_their_seed_and_are_drawn_once(config):
    films = build_distill(config).films
    teacher = T2VPipeline.from_pretrained(config.model)
    teacher.set_progress_bar_config(disable=True)
    batch = films.read([1, 4])
    for place, i in enumerate([1, 4]):
        film = films.films[i]
        assert film.prompt == PROMPTS[i % 4]
        generator = torch.Generator().manual_seed(film.seed)
        whole = teacher(film.prompt, generator=generator, output_type="latent").frames[0]
        torch.testing.assert_close(batch.latents[place], whole, atol=2e-3, rtol=2e-3)  # kept halved
    files = {path: path.stat().st_mtime_ns for path in films.folder.glob("*.safetensors")}
    again = build_distill(replace(config, pairs=14)).films
    assert again.keys[:10] == films.keys
    assert {path: path.stat().st_mtime_ns for path in files} == files  # four are new
    other = build_distill(replace(config, guidance_scale=3.0)).films
    assert not set(other.keys) & set(films.keys)


def test_a_plan_counts_what_teacher_and_student_do(config, capsys, monkeypatch):
    target = replace(config, batch_size=4, student_steps=(1, 2, 4))
    planned = estimate(target, planned_size(target, {**dict.fromkeys(SIDES)}, None), UNKNOWN)
    phases = {phase.name: phase for phase in planned.phases}
    times = {name: phase.times for name, phase in phases.items()}
    # 4 steps of 10 films in one batch; 4 batches, half of them after 1 step or, of 4, 2 on average
    assert (times[FILMS], times[OWN], times[UPDATE], times[EMBED]) == (4, 3, 4, 4)
    assert (times[PASS], times[DECODE]) == (3 * (1 + 2 + 4 + 2), 3 * 3 * 4)
    task = build_distill(target)
    whole = sum(p.nbytes for p in task.model.parameters())
    assert (planned.gradients, planned.average) == (whole, whole)
    batch = task.batch(0)
    monkeypatch.setattr(task, "place_in_run", lambda generator: (1, 0))
    step = count_flop(lambda: task.loss(batch, torch.Generator().manual_seed(0))[0].backward())
    assert phases[BACKWARD].flop == pytest.approx(step, rel=0.02)
    given = [f"{name}={getattr(target, name)}" for name in ("model", "prompts", "output")]
    asked = ["plan", "distill", *given, "pairs=2", "held_out=1", "device=cpu", "batch_size=2"]
    assert main([*asked, "tflops=1", "bandwidth=10"]) == 0
    told = capsys.readouterr().out
    assert "the student's own step" in told and "latents of 2 clips" in told
    assert main([*asked, "model=t2v-tiny-distilled"]) == 2
    assert "is a student already" in capsys.readouterr().err


def test_every_size_comes_and_a_batch_has_one(config):
    sized = replace(config, pairs=200, sizes=("1x16x16", "5x16x32"), teacher_steps=1)
    films = build_distill(sized).films
    shapes = {films.batch(step, 0, 1).latents.shape[2:] for step in range(24)}
    assert shapes == {(1, 2, 2), (2, 2, 4)}
    assert [len(each) for each in films.held_out()] == [3]


def test_two_and_two_steps_equal_four_to_the_bit(config, tmp_path):
    whole = distill(config)
    other = replace(config, output=str(tmp_path / "other"))
    distill(replace(other, steps=2))
    resumed = distill(other)
    for name in ("delta.safetensors", "training/ema.safetensors", "training/weights.safetensors"):
        a, b = load_file(whole / name), load_file(resumed / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[each], b[each]) for each in a), name


def test_the_loss_of_a_later_step_starts_where_the_students_own_steps_led(config, wake):
    task = build_distill(replace(config, pixel_weight=0.0, variety_weight=0.0))
    task.prepare()
    network = wake(task.model["transformer"], seed=9)
    batch = task.read(0)

    def at(x, t):
        return network(x, torch.full((len(x),), 1000 * t), batch.text, return_dict=False)[0]

    found = {}
    for seed in range(80):
        place = task.place_in_run(keyed_generator(seed))
        found.setdefault(place, []).append(seed)
        if len(found[place]) > 1:
            continue
        n, j = place
        times = task.times[n]
        with torch.no_grad():
            x = batch.noise
            for now, following in pairwise(times[: j + 1]):
                x = x + (following - now) * at(x, now)
            wanted = (x - times[j] * at(x, times[j]) - batch.latents).square().mean()
        loss = task.loss(batch, keyed_generator(seed))[0]
        torch.testing.assert_close(loss, wanted)
        loss.backward()
    assert found.keys() == {(1, 0), (2, 1), (4, 1), (4, 2), (4, 3)}
    assert 25 < len(found[1, 0]) < 55  # first_step: a half


def test_films_of_a_prompt_that_are_too_alike_are_driven_apart(config):
    task = build_distill(replace(config, pixel_weight=0.0))
    batch = task.read(0)
    task._velocity = lambda x, time, text: x / time  # one film for all noise, of zeros
    loss, figures = task.loss(batch, keyed_generator(0))
    missing = batch.latents[0].square().mean((1, 2, 3)).sqrt()  # c
    torch.testing.assert_close(figures["variety"], -missing.mean(), atol=1e-5, rtol=1e-5)
    wanted = batch.latents.square().mean() + missing.square().mean()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)


def test_the_student_comes_near_its_teacher(config):
    config = replace(config, steps=150, validate_every=150, save_every=150, held_out=1, pairs=9)
    checkpoint = distill(replace(config, batch_size=8))
    lines = (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    judged = [line for line in map(json.loads, lines) if "val_psnr_1" in line]
    losses = [json.loads(line)["mse"] for line in lines if "mse" in json.loads(line)]
    assert sum(losses[-10:]) < sum(losses[:10]) / 2
    assert {f"val_psnr_{n}" for n in (1, 2, 4)} <= judged[-1].keys()


def test_a_checkpoint_is_a_pipeline_of_few_steps_and_its_weights_are_a_byte_each(config, tmp_path):
    task = build_distill(config)
    for _ in fit(task, config, start_state(task, config)):
        pass
    task.save(tmp_path / "saved")
    student, saved = student_of(task), T2VPipeline.from_pretrained(tmp_path / "saved")
    before = made(T2VPipeline.from_pretrained(config.model), 2)
    for steps in (1, 2, 4):
        exact, rounded = made(student, steps), made(saved, steps)
        assert (rounded - exact).norm() < 5e-3 * exact.norm()
    assert (made(student, 2) - before).norm() > 5e-2 * before.norm()
    assert saved.config.num_inference_steps == 2 and saved.config.guidance_scale == 1
    assert saved.transformer.config.conditioning == "none"
    weights = sum(p.numel() for p in saved.transformer.parameters())
    assert (tmp_path / "saved" / "delta.safetensors").stat().st_size < 1.6 * weights
    whole = replace(config, save="full")
    task.config = whole
    task.save(tmp_path / "whole")
    alone = DiffusionPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(made(alone, 2), made(student, 2))
    hashes = {weights_hash(Path(each)) for each in (config.model, tmp_path / "saved")}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_inference_steps": 3}, "in 1, 2, 4 steps"),
        ({"guidance_scale": 2.0}, "its teacher's guidance in its weights"),
        ({"strength": 0.5, "video": torch.zeros(5, 3, 16, 32)}, "video: .*of text alone"),
        ({"image": torch.zeros(3, 16, 32)}, "image: .*of text alone"),
        ({"negative_prompt": "blue"}, "negative_prompt='blue': .* turns away from nothing"),
        ({"negative_prompt": ["", "blue"]}, "turns away from nothing"),
        ({"negative_prompt_embeds": torch.zeros(1, 2, 16)}, "negative_prompt=embeddings"),
    ],
)
def test_a_student_refuses_what_it_has_not_learned(pipe, given, words):
    pipe.transformer.become_student((1, 2, 4))
    pipe.register_to_config(guidance_scale=1.0)
    with pytest.raises(UserError, match=words) as refused:
        pipe("a red ball", **given)
    assert "or take its teacher." in str(refused.value)  # it is in memory alone
    assert pipe("a red ball", negative_prompt="", num_inference_steps=1).frames is not None


def test_a_student_tells_a_story_of_cuts_alone(pipe):
    pipe.transformer.become_student((1,))
    pipe.register_to_config(guidance_scale=1.0, num_inference_steps=1, num_frames=13)
    scenes = {"prompt": ["a red ball", "a blue box"], "scene_seconds": [1, 1]}
    with pytest.raises(UserError, match=r"scene 2, which goes on from .*text alone"):
        pipe(**scenes)
    with pytest.raises(UserError, match="turns away from nothing"):
        pipe(**scenes, negative_prompt="blue")


def test_at_a_shell_a_student_makes_a_film_and_refuses_in_a_line(
    config, tmp_path, capsys, read_frames
):
    checkpoint = distill(replace(config, steps=1))
    told = ["sample", "a red ball", "--model", str(checkpoint), "--output", str(tmp_path / "a.mp4")]
    main(told)
    recipe = json.loads((tmp_path / "a.json").read_text())
    assert recipe["settings"]["num_inference_steps"] == 2
    main(["sample", "--recipe", str(tmp_path / "a.mp4")])
    films = [read_frames(tmp_path / name) for name in ("a.mp4", "a-again.mp4")]
    assert (films[0] == films[1]).all()
    capsys.readouterr()
    assert main([*told, "guidance_scale=3"]) == 2
    assert capsys.readouterr().err.count("t2v: ") == 1
    with pytest.raises(UserError, match="is a student already"):
        build_distill(replace(config, model=str(checkpoint)))
    with pytest.raises(UserError, match="is a student of few steps"):
        build_finetune(FinetuneConfig(model=str(checkpoint), data="clips", output="tuned"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prompts": "nothing.txt"}, "nothing.txt"),
        ({"sizes": ("5x17x32",)}, "multiples of 16"),
        ({"sizes": ("5by17",)}, "no shape of a clip"),
        ({"pairs": 3}, "none is left to learn from"),
        ({"student_steps": (2, 2)}, "different numbers"),
        ({"num_inference_steps": 3}, "is not among"),
        ({"first_step": 1.5}, "from 0 to 1"),
        ({"model": "nowhere"}, "no such folder"),
    ],
)
def test_what_cannot_work_is_one_message(config, wrong, words):
    with pytest.raises(UserError, match=words):
        build_distill(replace(config, **wrong))


def test_a_model_of_wan_teaches_with_its_own_scheduler(config, wan, tmp_path):
    wan.register_modules(
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    )
    wan.save_pretrained(tmp_path / "wan")
    main(["convert", str(tmp_path / "wan"), str(tmp_path / "ours")])
    told = {"model": str(tmp_path / "ours"), "sizes": ("5x16x16",), "teacher_steps": 3}
    config = replace(config, **told, pairs=4, held_out=1, steps=1, batch_size=2)
    films = build_distill(config).films
    teacher = T2VPipeline.from_pretrained(config.model)
    teacher.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(films.films[0].seed)
    size = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 3}
    whole = teacher(PROMPTS[0], generator=generator, output_type="latent", **size).frames
    torch.testing.assert_close(films.read([0]).latents, whole, atol=2e-3, rtol=2e-3)
    student = T2VPipeline.from_pretrained(distill(config))
    assert student.scheduler.config.shift == 3.0  # the times that its teacher was trained with
    latents = student(
        "a red ball", output_type="latent", **size | {"num_inference_steps": 2}
    ).frames
    assert latents.shape == whole.shape


def test_a_teacher_that_is_no_flow_is_refused(config, pipe):
    pipe.register_modules(
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type="v_prediction",
            rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
        )
    )  # fmt: skip
    pipe.save_pretrained(config.model)
    with pytest.raises(UserError, match="objective=v"):
        build_distill(config)
