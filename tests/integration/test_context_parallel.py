"""One clip split over two processes gives what one process gives."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import nn

from t2v.models.transformer import T2VTransformer3DModel


def build() -> T2VTransformer3DModel:
    model = T2VTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        ffn_dim=32,
        num_layers=2,
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def inputs(*, per_token: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    timestep = torch.arange(12.0).mul(70).expand(1, 12) if per_token else torch.tensor([300.0])
    return {
        "hidden_states": torch.randn(1, 4, 3, 4, 4, generator=generator),
        "timestep": timestep,
        "encoder_hidden_states": torch.randn(1, 5, 16, generator=generator),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, 2), mesh_dim_names=("ring", "ulysses"))
    model = build()
    with patch("torch.accelerator.device_count", return_value=1):  # diffusers divides by it
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh))
    with torch.no_grad():
        answers = [model(**inputs(per_token=each)).sample for each in (False, True)]
    torch.save(answers, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    model = build()
    with torch.no_grad():
        wanted = [model(**inputs(per_token=each)).sample for each in (False, True)]
    for rank in range(2):
        for answer, one in zip(torch.load(tmp_path / f"{rank}.pt"), wanted, strict=True):
            torch.testing.assert_close(answer, one, atol=1e-6, rtol=1e-5)
