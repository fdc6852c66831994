"""Two processes on gloo train what one process trains, and go on from each other's checkpoints."""

import gc
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from t2v.config.data import ClipsConfig, CurriculumStage
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.load import save_config
from t2v.config.training import DiscriminatorConfig, OptimConfig, TasksConfig
from t2v.data.rng import keyed_generator
from t2v.distributed import world_size
from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.models.kernels.precision import faster_dtype
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.engine.collectives import process_group, split_like, whole
from t2v.training.engine.loop import start_state
from t2v.training.engine.muon import Muon
from t2v.training.engine.run import save_state
from t2v.training.engine.sharding import blocks
from t2v.training.tasks.dit import build_dit, train_dit
from t2v.training.tasks.finetune import finetune
from t2v.training.tasks.vae import train_vae

JUDGED = ("seconds", "verdict", "val_change", "val_chance")  # a small difference of large numbers
TRAIN = {"vae": train_vae, "dit": train_dit, "lora": finetune}
MIXED = ClipsConfig(  # wide and tall, long and short, images among them
    fps=8, resolution=64, num_frames=9, workers=1, aspects=("5:3", "3:5", "1:1"),
    stages=(CurriculumStage(num_frames=5), CurriculumStage(from_step=1, image_ratio=0.4)),
)  # fmt: skip

TASKS = TasksConfig(first=1, region=1, frames=1, ends=1)


@pytest.fixture
def lora_config(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "base")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data="", output=str(tmp_path / "tuned"),
        lora=LoRAConfig(rank=2, alpha=4), steps=4, batch_size=2, held_out=2, save_every=2,
        validate_every=2, caption_dropout=0.3, interpolate=0.7, concept=("<toy>",),
        optim=OptimConfig(name="adamw", adam_lr=1e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


FORKSERVER = multiprocessing.get_context("forkserver")  # imports torch once for all processes
FORKSERVER.set_forkserver_preload(["t2v.training.tasks.finetune", "t2v.training.tasks.vae", "peft"])


def launch(rank, port):
    """Make this process what a launcher would have started."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def in_two_processes(work, *args):
    pair = [FORKSERVER.Process(target=work, args=(rank, *args)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]


def train_all(rank, ports, kind, configs):
    """Train by several settings, then resume each from the half of its steps."""
    for port, config in zip(ports, [*configs, *map(at_half, configs)], strict=True):
        launch(rank, port)
        if rank == 0 and config not in configs:
            copy_half(config)  # the other process waits until this one joins it
        TRAIN[kind](config)


def train_by_two(kind, configs):
    """Train and resume, each by two processes as `torchrun` would start them."""
    in_two_processes(train_all, [free_port() for _ in range(2 * len(configs))], kind, configs)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def at_half(config):
    """The settings of a run that goes on where another one, killed late in step 4, left off."""
    return replace(config, output=f"{config.output}-2")


def copy_half(config):
    shutil.copytree(config.output.removesuffix("-2"), config.output)
    shutil.rmtree(Path(config.output) / "checkpoint-000004")


def end_of(config):
    folder = newest_checkpoint(config.output)
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same(resumed, whole):
    """Weights, average, optimizer and pipeline to the bit, and what each step told."""
    a, b = end_of(resumed), end_of(whole)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert metrics_of(resumed) == metrics_of(whole)


def only_new_words_moved(base, config):
    """Whatever FSDP2 does with the table."""
    before, after = (
        T2VPipeline.from_pretrained(folder).text_encoder.shared.weight
        for folder in (base, newest_checkpoint(config.output))
    )
    assert torch.equal(after[: len(before)], before)
    assert len(after) == len(before) + 1
    kept = load_file(newest_checkpoint(config.output) / "training" / "weights.safetensors")
    assert torch.equal(kept["text_encoder.shared.weight"][: len(before)], before)


def metrics_of(config, but=("seconds",)):
    """All that was logged but these, and but what was judged before the last step."""
    text = (Path(config.output) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    judged = {name for name in lines[-1] if name.startswith(("val_", "verdict"))}
    return [
        {
            name: value
            for name, value in line.items()
            if name not in but and (line is lines[-1] or name not in judged)
        }
        for line in lines
    ]


@pytest.mark.parametrize(
    ("kind", "footage"),
    [("vae", False), ("dit", True), pytest.param("lora", True, marks=pytest.mark.slow)],
)
def test_two_processes_train_what_one_trains_and_resume_to_the_bit(
    kind, footage, tmp_path, request
):
    config = replace(request.getfixturevalue(f"{kind}_config"), precision="fp32", accumulate=2)
    if footage:
        media = request.getfixturevalue("media")
        for path in media.glob("*.txt"):
            path.write_text(path.read_text().replace("red ball", "<toy>"))
        config = replace(config, data=str(media), clips=MIXED, seed=3)
    if kind == "dit":
        config = replace(config, train_text_encoder=False)  # its captions are embedded once
        config = replace(config, validate_every=4)  # "lora" is also judged amid its steps
        tokens = replace(config.model, conditioning="tokens", picture_tokens=True)
        config = replace(config, model=tokens, tasks=TASKS, known_noise=0.1)
        task = build_dit(config)
        shapes = [tuple(task.batch(step, 0, 4).latents.shape[2:]) for step in range(4)]
        assert shapes == [(2, 6, 10), (3, 6, 10), (3, 10, 6), (1, 6, 10)]
    if kind == "vae":
        config = replace(config, discriminator=DiscriminatorConfig(weight=0.5, alone=1, width=4))
    one = replace(config, accumulate=4)
    TRAIN[kind](one)
    ways = {
        name: replace(config, output=str(tmp_path / name), parallel=name)
        for name in ("ddp", "fsdp")
    }
    train_by_two(kind, [*ways.values()])
    wanted, state = metrics_of(one, JUDGED), end_of(one)
    for name, way in ways.items():
        for line, expected in zip(metrics_of(way, JUDGED), wanted, strict=True):
            assert line == pytest.approx(expected, rel=1e-3), name
        reached = end_of(way)
        assert reached.keys() == state.keys()
        for key, tensor in reached.items():
            assert tensor.shape == state[key].shape
        far = {
            key: (tensor.float() - state[key].float()).square().mean().sqrt().item()
            for key, tensor in reached.items()
            if key.startswith(("training/weights", "training/ema"))
        }
        # a step of Muon moves a weight by 6e-4; it lifts the rounding of weak directions to that
        assert max(far.values()) < 5e-4, name
        assert_same(at_half(way), way)
        if kind == "lora":
            only_new_words_moved(config.model, way)
    go_on = replace(ways["fsdp"], accumulate=4, steps=5)  # by one process, as many clips a step
    if kind != "vae":
        TRAIN[kind](go_on)
    with pytest.raises(UserError, match=r"processes\): 4 -> 1"):
        TRAIN[kind](replace(go_on, accumulate=1, steps=6))


def bytes_held():
    """Of all tensors of this process that have content."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    local = [each.to_local() if isinstance(each, DTensor) else each for each in tensors]
    storages = [each.untyped_storage() for each in local if not each.is_meta]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


class Gathered(TorchDispatchMode):
    """Counts the bytes that collectives give this rank, and the most that it asks for at once."""

    NAMES = ("c10d::_allgather_base_", "_c10d_functional::all_gather_into_tensor")

    def __init__(self):
        super().__init__()
        self.bytes, self.dtypes = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        if func.name() in self.NAMES:
            whole = args[0] if func.name().startswith("c10d") else given
            self.bytes += whole.nbytes
            self.dtypes.add(whole.dtype)
        return given


def gradients(task, step, shards):
    """The loss of the first of the shards, and the mean of the gradients of all of them."""
    weights, losses = dict(task.model.named_parameters()), []
    for shard in range(shards):
        generator = keyed_generator(task.config.seed, step, shard, "noise")
        loss, _ = task.loss(task.batch(step, shard, shards), generator)
        (loss / shards).backward()
        losses.append(loss.detach())
    grads = {name: p.grad for name, p in weights.items() if p.grad is not None}
    for weight in weights.values():
        weight.grad = None
    return losses[0], grads


def numbers(task):
    """How many the linear layers of blocks have, and how many the others, rows in equal shares."""
    layers = [each for block in blocks(task.model) for each in block.modules()]
    products = {p for each in layers if isinstance(each, nn.Linear) for p in each.parameters()}
    others = [p for p in task.model.parameters() if p not in products]
    padded = sum(p[0].numel() * (len(p) + len(p) % 2) for p in others)
    return sum(p.numel() for p in products), padded


def split_and_gather(rank, port, config):
    """A training in bf16, split: as one process has it, with one copy of the weights in all."""
    launch(rank, port)
    with process_group(torch.device("cpu")):
        task = build_dit(config)
        weights = sum(p.nbytes for p in task.model.parameters())
        absent = sum(p.nbytes for p in task.model["transformer"].parameters() if p.is_meta)
        assert (absent > 0.5 * weights) == bool(rank)  # one process makes the weights
        products, others = numbers(task)
        loss, grads = gradients(task, 0, 2) if rank == 0 else (None, {})
        before = bytes_held() + absent - weights
        state = start_state(task, config)
        # half of the weights and half of their average are as much as the weights are
        assert abs(bytes_held() - before - weights) < 0.1 * weights
        average = state.worker.averaged(state.ema)
        if rank == 0:
            with average:
                assert sum(p.nbytes for p in task.model.parameters()) == weights
        del average
        assert abs(bytes_held() - before - weights) < 0.1 * weights
        generator = keyed_generator(config.seed, 0, rank, "noise")
        with Gathered() as gathered:
            found, _ = state.worker.backward(task.batch(0, rank, 2), generator, last=True)
        # twice in bf16, for the forward and the backward pass; the others once in fp32
        assert gathered.bytes == 2 * 2 * products + 4 * others
        assert gathered.dtypes == {torch.bfloat16, torch.float32}
        reduced = {name: whole(p.grad) for name, p in task.model.named_parameters()}
        if rank == 0:
            assert torch.equal(found, loss)  # to the bit
            assert reduced.keys() == grads.keys()
            for name, grad in grads.items():
                assert (reduced[name] - grad).norm() <= 1e-6 * grad.norm(), name
        (Path(config.output).parent / "file").touch()
        with pytest.raises(UserError, match="Make room"):  # and no process waits for another
            save_state(Path(config.output).parent / "file" / "x", task, config, state)


def test_a_split_model_is_one_copy_gathered_in_half_precision_with_the_bits_of_one_process(
    dit_config,
):
    config = replace(dit_config, parallel="fsdp", gradient_checkpointing=True)
    in_two_processes(split_and_gather, free_port(), config)


def share_muon(rank, port, way):
    """Three matrices and a kernel, of which every process makes a share orthogonal."""
    launch(rank, port)
    with process_group(torch.device("cpu")):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(32, 16, bias=False) for _ in range(3)))
        model.append(nn.Conv3d(4, 5, 2, bias=False))  # whose five rows two processes share unevenly
        grads = [torch.randn_like(p) for p in model.parameters()]
        matrices = [p.detach().flatten(1).clone() for p in model.parameters()]
        for matrix, grad in zip(matrices, grads, strict=True):
            matrix.grad = grad.flatten(1).clone()
        reference = torch.optim.Muon(matrices, 0.1, 0.1, adjust_lr_fn="match_rms_adamw")
        if way == "fsdp":
            fully_shard(model)
        parameters = dict(model.named_parameters())
        muon, ulp = Muon(parameters, 0.1), 2**-7 * 0.02 * 32**0.5
        for _ in range(2):
            for parameter, grad in zip(parameters.values(), grads, strict=True):
                parameter.grad = split_like(grad.clone(), parameter)
            reference.step()
            with Gathered() as gathered:
                muon.step(0.1)
        for parameter, matrix in zip(parameters.values(), matrices, strict=True):
            stepped = whole(parameter.detach()).flatten(1)
            torch.testing.assert_close(stepped, matrix, atol=4 * ulp, rtol=0)
        # matrices are shared as two and one, padded to two and two; to split ones gloo has no
        # all-to-all, and each process is sent what another one needs
        width = faster_dtype(torch.device("cpu")).itemsize
        numbers = {"ddp": 4 * 16 * 32 + 2 * 5 * 32, "fsdp": 8 * 16 * 32 + 4 * 6 * 32}
        assert gathered.bytes == width * numbers[way]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_share_muon_and_gather_half_precision(way):
    in_two_processes(share_muon, free_port(), way)


def test_a_launcher_that_says_too_little_is_refused(vae_config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world_size() == 2
    with pytest.raises(UserError, match=r"MASTER_ADDR, MASTER_PORT is not set\. Start several"):
        train_vae(vae_config)
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="MASTER_PORT=0: processes cannot"):  # else hours pass
        train_vae(vae_config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node=2", "--master-port"],
        ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--main_process_port"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_the_launchers_start_a_training(launcher, vae_config, tmp_path):
    config = replace(vae_config, parallel="fsdp")
    save_config(config, tmp_path / "config.yaml")
    door = Path(__file__).parents[2] / "train" / "vae.py"
    command = [
        sys.executable,
        "-m",
        *launcher,
        str(free_port()),
        str(door),
        "--config",
        str(tmp_path / "config.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics_of(config)] == [1, 2, 3, 4]
    assert newest_checkpoint(config.output).name == "checkpoint-000004"
