"""The loop and its driver on the smallest real task: a line through points."""

import json
import resource
import signal
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from t2v.config.load import load_config
from t2v.config.training import OptimConfig, TrainConfig, TrainVAEConfig
from t2v.data.rng import keyed_generator, step_indices
from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.models.kernels import choice
from t2v.training.engine.loader import batches
from t2v.training.engine.loop import fit, start_state
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.run import run, train
from t2v.training.engine.task import Validation


class Line(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, inputs=4, outputs=3):
        super().__init__()
        self.map = nn.Linear(inputs, outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return self.map(x)


class LineTask:
    """Fit y = x W with noise on x; `at` runs something in the middle of a step."""

    def __init__(self, at=lambda step: None, outputs=3, batch_size=8, noise=0.1):
        self.batch_size, self.noise = batch_size, noise
        self.model = Line(outputs=outputs)
        self.parts = {"line": self.model}
        self.sources = {"points": "1"}
        self.attention, self.leaves_unused = None, False
        self.at = at

    def prepare(self):
        pass

    def parameter_groups(self):
        named = dict(self.model.named_parameters())
        return split_parameters(named, OptimConfig(), lambda name: True)

    def sample_bytes(self):
        return 4 * 4

    def place(self, batch):
        return batch

    def read(self, step, rank, world_size):
        self.at(step)
        index = step_indices(50, self.batch_size, 0, step, rank, world_size)
        return torch.randn(50, 4, generator=keyed_generator("points"))[index]

    def loss(self, batch, generator):
        noisy = batch + self.noise * torch.randn(batch.shape, generator=generator)
        loss = (self.model(noisy) - batch[:, :3]).square().mean()
        return loss, {"bias": self.model.map.bias.detach().sum()}

    def validate(self):
        points = torch.randn(2, 12, 4, generator=keyed_generator("held out"))
        seen, new = (self.model(points) - points[..., :3]).square().mean(dim=2).detach()
        figures = {"val_bias": self.model.map.bias.sum().item(), "val_loss": new.mean().item()}
        losses = {"held_out": new, "training": seen}
        return Validation(figures, Image.new("RGB", (2, 2)), losses)

    def save(self, folder):
        self.model.save_pretrained(folder / "line")


@pytest.fixture
def config(tmp_path):
    optim = OptimConfig(warmup_steps=2, decay_from=1.0, ema_decay=0.5)
    return TrainConfig(
        output=str(tmp_path / "run"), steps=8, batch_size=8, save_every=3, validate_every=4,
        precision="fp32", optim=optim, held_out=1,
    )  # fmt: skip


def tensors(folder):
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def logged(output, timed=False):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if timed or k != "seconds"} for line in lines]


def assert_same_run(one, other):
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert logged(one.parent) == logged(other.parent)
    lines = [(each.parent / "validations.jsonl").read_text() for each in (one, other)]
    assert lines[0] == lines[1]


def test_a_run_leaves_config_metrics_sheets_and_checkpoints(config, tmp_path):
    last = run(LineTask(), config)
    output = tmp_path / "run"
    assert last == newest_checkpoint(output) == output / "checkpoint-000008"
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "metrics.jsonl", "validations.jsonl", "sheets", "tensorboard",
        "checkpoint-000006", "checkpoint-000008",
    }  # fmt: skip
    assert [line["step"] for line in logged(output) if "val_bias" in line] == [4, 8]
    assert {path.name for path in (output / "sheets").iterdir()} == {
        "000000.png", "000004.png", "000008.png",
    }  # fmt: skip


def test_auto_takes_the_faster_format_and_a_run_that_goes_on_keeps_it(
    config, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv(choice.VARIABLE, "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = choice.folder() / choice.machine(torch.get_num_threads())
    folder.mkdir(parents=True)
    file = folder / "precision-bfloat16-grad.json"
    config = TrainVAEConfig(
        output=config.output, data="points", device="cpu", steps=2, save_every=2, validate_every=2,
        held_out=1, tracker="none",
    )  # fmt: skip
    caplog.set_level("INFO")
    for kept in ("fp32", "bf16"):  # the second one is another machine
        file.write_text(json.dumps({"kernel": kept}))
        choice._chosen.cache_clear()
        train(lambda config: LineTask(), config)
        config = replace(config, steps=4)
        written = load_config(TrainVAEConfig, tmp_path / "run" / "config.yaml", ())
        assert written.precision == "fp32"
    choice._chosen.cache_clear()
    told = [line for line in caplog.messages if "precision=" in line]
    assert told == [f"{config.output}: precision=fp32, in which this machine trains faster"]
    with pytest.raises(UserError, match="precision: fp32 -> bf16"):
        train(lambda config: LineTask(), replace(config, precision="bf16"))


def test_every_validation_has_a_verdict_and_the_loss_from_before_any_step(config, tmp_path):
    run(LineTask(), config)
    written = (tmp_path / "run" / "validations.jsonl").read_text().splitlines()
    begun, *lines = map(json.loads, written)
    judged = [line for line in logged(tmp_path / "run") if "verdict" in line]
    assert [line["step"] for line in judged] == [line["step"] for line in lines] == [4, 8]
    for line in judged:
        assert line["val_loss_untuned"] == begun["figures"]["val_loss"] > line["val_loss"]
        assert line["val_change"] < -line["val_chance"] < 0
        assert line["verdict"].startswith("learning: held-out loss")


def test_tensorboard_shows_what_was_logged(config, tmp_path):
    run(LineTask(), replace(config, steps=3))
    time.sleep(1 - time.time() % 1)  # files are read by their names, which begin with the second
    run(LineTask(), config)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("loss")]
    wanted = [(line["step"], line["loss"]) for line in logged(tmp_path / "run")]
    assert [step for step, _ in shown] == [step for step, _ in wanted] == list(range(1, 9))
    assert [value for _, value in shown] == pytest.approx([value for _, value in wanted])


def test_a_tracker_that_is_named_is_used_and_one_that_is_missing_is_named(config, tmp_path):
    run(LineTask(), replace(config, steps=1, tracker="none"))
    assert not (tmp_path / "run" / "tensorboard").exists()
    missing = next(name for name in ("trackio", "wandb") if find_spec(name) is None)
    with pytest.raises(UserError, match=f"tracker={missing}: .*pip install {missing}"):
        run(LineTask(), replace(config, steps=2, tracker=missing))


def test_half_and_half_equals_whole_to_the_bit(config, tmp_path):
    whole = run(LineTask(), config)
    other = replace(config, output=str(tmp_path / "other"))
    run(LineTask(), replace(other, steps=5, validate_every=100))
    resumed = run(LineTask(), other)
    a, b = tensors(whole), tensors(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_saves_exits_130_and_goes_on_to_the_same_end(config, tmp_path, number):
    whole = run(LineTask(), config)

    def stop(step):
        if step == 4:
            signal.raise_signal(number)

    other = replace(config, output=str(tmp_path / "other"))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as exit_:
        run(LineTask(at=stop), other)
    assert exit_.value.code == 130
    assert signal.getsignal(number) == before
    assert newest_checkpoint(other.output).name == "checkpoint-000005"
    assert_same_run(whole, run(LineTask(), other))


def test_a_killed_run_repeats_the_steps_no_checkpoint_holds(config, tmp_path):
    whole = run(LineTask(), config)

    def die(step):
        if step == 5:
            raise MemoryError

    other = replace(config, output=str(tmp_path / "other"))
    with pytest.raises(MemoryError):
        run(LineTask(at=die), other)
    with (tmp_path / "other" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')  # the line it was writing
    assert_same_run(whole, run(LineTask(), other))


def test_a_changed_setting_is_refused_and_shown(config):
    run(LineTask(), replace(config, steps=3))
    changed = replace(config, seed=5, optim=replace(config.optim, lr=0.5))
    with pytest.raises(UserError, match=r"seed: 0 -> 5; optim\.lr: 0\.003 -> 0\.5"):
        run(LineTask(), changed)
    run(LineTask(), replace(config, steps=4, keep_checkpoints=1, validate_every=2, save_every=1))


def test_changed_sources_are_refused(config):
    run(LineTask(), replace(config, steps=3))
    task = LineTask()
    task.sources = {"points": "2"}
    with pytest.raises(UserError, match="points: 1 -> 2"):
        run(task, config)


def test_a_new_run_begins_with_the_average_of_another(config, tmp_path):
    run(LineTask(), config)
    task = LineTask()
    other = replace(config, output=str(tmp_path / "other"), start_from=config.output, steps=0)
    run(task, other)
    average = tensors(newest_checkpoint(config.output))["ema.safetensors:map.weight"]
    assert torch.equal(task.model.map.weight, average)


def test_a_new_run_begins_with_the_mean_of_two_folders(config, tmp_path):
    for name, value in (("one", 0.5), ("two", 0.25)):
        saved = Line()
        nn.init.constant_(saved.map.weight, value)
        saved.save_pretrained(tmp_path / name)
    task = LineTask()
    both = replace(config, start_from=str(tmp_path / "one"), average_with=str(tmp_path / "two"))
    run(task, replace(both, steps=0))
    assert (task.model.map.weight == 0.375).all()
    with pytest.raises(UserError, match="average_with=nowhere holds no line/"):
        run(LineTask(), replace(both, output=str(tmp_path / "other"), average_with="nowhere"))
    with pytest.raises(UserError, match="Give the first one as start_from"):
        replace(both, start_from=None)


@pytest.mark.parametrize("place", [".", "line"])
def test_a_new_run_begins_with_a_plain_folder_of_weights(config, tmp_path, place):
    saved = Line()
    nn.init.constant_(saved.map.weight, 0.5)
    saved.save_pretrained(tmp_path / "plain" / "line")
    task = LineTask()
    run(task, replace(config, start_from=str(tmp_path / "plain" / place), steps=0))
    assert torch.equal(task.model.map.weight, saved.map.weight)


def test_a_damaged_start_is_named(config, tmp_path):
    Line().save_pretrained(tmp_path / "line")
    (tmp_path / "line" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"start_from=.*line: .*is damaged or not whole"):
        run(LineTask(), replace(config, start_from=str(tmp_path)))


def test_start_from_another_model_says_how_much_fits(config, tmp_path):
    run(LineTask(), config)
    task = LineTask(outputs=5)
    other = replace(config, output=str(tmp_path / "other"), start_from=config.output)
    with pytest.raises(UserError, match="of 2 weights 0 fit the 2"):
        run(task, other)
    with pytest.raises(UserError, match="holds no line/"):
        run(task, replace(other, start_from=str(tmp_path / "nothing")))


def test_batches_that_other_processes_read_ahead_are_the_same(config):
    task = LineTask()

    def read(workers, first=0):
        given = replace(config, steps=4, loader_workers=workers)
        return [*batches(task, given, first, [2, 3], 4)]

    before, state = read(0), torch.random.get_rng_state()
    assert len(before) == 8  # two a step
    assert all(map(torch.equal, before, read(2)))
    assert all(map(torch.equal, before[4:], read(1, first=2)))  # as a resumed run goes on
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_a_reader_refuses_is_told_as_it_is(config):
    def refuse(step):
        if step == 1:
            raise UserError("no such clip")

    task, seen = LineTask(at=refuse), []
    with pytest.raises(UserError, match=r"^no such clip$"):
        seen.extend(batches(task, replace(config, loader_workers=1), 0, [0], 1))
    with pytest.raises(UserError, match="loader_workers=-1"):
        replace(config, loader_workers=-1)


def test_a_loss_that_is_not_finite_stops_before_the_weights_take_it(config, tmp_path):
    task = LineTask()

    def poison(step):
        if step == 4:
            task.model.map.bias.data[1] = torch.nan

    task.at = poison
    with pytest.raises(UserError) as error:
        run(task, config)
    for part in ("Step 5", "nan", "weight", "checkpoint-000003", "Lower optim.lr"):
        assert part in str(error.value)
    assert task.model.map.weight.isfinite().all()


def test_why_a_training_failed_stands_beside_its_metrics_until_it_goes_on(config):
    def refuse(step):
        raise UserError("no such clip")

    config = TrainVAEConfig(
        output=config.output, data="points", device="cpu", steps=2, tracker="none", precision="fp32"
    )
    kept = Path(config.output, "failed.json")
    with pytest.raises(UserError, match="no such clip"):
        train(refuse, config)
    assert not kept.parent.exists()  # it never began
    with pytest.raises(UserError, match="no such clip"):
        train(lambda config: LineTask(at=refuse), config)
    assert json.loads(kept.read_text())["message"] == "no such clip"
    with pytest.raises(SystemExit):  # stopped: that is no failure
        train(lambda config: LineTask(at=lambda step: signal.raise_signal(15)), config)
    assert not kept.exists()


def test_the_gradient_that_is_not_finite_is_named(config):
    task = LineTask()
    task.model.map.bias.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(UserError, match=r"not finite: map\.bias\."):
        run(task, config)


def test_small_batches_accumulate_to_the_step_of_one_big_one(config, tmp_path):
    big = run(LineTask(batch_size=12, noise=0.0), config)
    small = replace(config, output=str(tmp_path / "small"), accumulate=4)
    a, b = tensors(big), tensors(run(LineTask(batch_size=3, noise=0.0), small))
    for name, value in a.items():
        # a sum in another order, which Muon's bfloat16 iteration may round the other way
        torch.testing.assert_close(b[name], value, atol=2e-4, rtol=0, msg=name)
    for line, other in zip(logged(big.parent), logged(Path(small.output)), strict=True):
        numbers = [{k: v for k, v in each.items() if k != "verdict"} for each in (line, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


def test_accumulated_halves_equal_the_whole_to_the_bit(config, tmp_path):
    config = replace(config, accumulate=3)
    whole = run(LineTask(batch_size=7), config)
    other = replace(config, output=str(tmp_path / "other"))
    run(LineTask(batch_size=7), replace(other, steps=4))
    with pytest.raises(UserError, match=r"processes\): 3 -> 1"):
        run(LineTask(batch_size=7), replace(other, accumulate=1))
    assert_same_run(whole, run(LineTask(batch_size=7), other))


def test_every_batch_of_a_step_has_noise_of_its_own(config):
    task, seeds = LineTask(), []
    task.loss = lambda batch, generator: (
        seeds.append(generator.initial_seed()) or task.model(batch).square().mean(), {}
    )  # fmt: skip
    once = replace(config, steps=1, accumulate=3)
    for _ in range(2):
        next(fit(task, once, start_state(task, once)))
    assert len(set(seeds)) == 3
    assert seeds[:3] == seeds[3:]


def test_recomputing_activations_is_refused_where_no_part_can(config):
    with pytest.raises(UserError, match="gradient_checkpointing=true: line cannot"):
        run(LineTask(), replace(config, gradient_checkpointing=True))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # tensorboard's
def test_metrics_that_cannot_be_written_stop_the_run_and_name_the_last_checkpoint(config, tmp_path):
    whole = run(LineTask(), config)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step):
        if step == 4:  # no file may grow, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))

    other = replace(config, output=str(tmp_path / "other"))
    try:
        with pytest.raises(UserError, match=r"metrics\.jsonl could not.*checkpoint-000003"):
            run(LineTask(at=fill), other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same_run(whole, run(LineTask(), other))
