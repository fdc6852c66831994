"""Blocks that wait on the CPU compute and learn as if they were always there."""

from copy import deepcopy

import pytest
import torch

from t2v.config.finetune import LoRAConfig
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.engine.sharding import blocks
from t2v.training.tuning.adapters import add_lora
from t2v.training.tuning.block_swap import AT_ONCE, BlockSwap


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_to_the_bit_and_few_blocks_are_there_at_once(
    transformer, checkpointing
):
    model = T2VTransformer3DModel(**{**transformer.config, "num_layers": 5})
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)
    add_lora(model, LoRAConfig(rank=2), seed=0)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1)
    swapped = deepcopy(model)
    for each in (model, swapped):
        if checkpointing:
            each.enable_gradient_checkpointing()
    swap = BlockSwap(blocks(swapped)[1:], torch.device("cpu"))
    frozen = [p for block in swap.kept for p in block.parameters() if not p.requires_grad]
    assert swap.bytes() > 0 and all(p.numel() == 0 for p in frozen)
    most = []
    for block in swap.kept:
        block.register_forward_hook(lambda *_: most.append(sum(p.nbytes for p in frozen)))
    found = []
    for each in (model, swapped):
        for _ in range(2):  # the second step begins where the first one left
            x = torch.randn(2, 8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
            each.zero_grad()
            loss = (
                each(x, torch.tensor([300.0, 700.0]), torch.ones(2, 3, 32)).sample.square().mean()
            )
            loss.backward()
        found.append([loss, *(p.grad for p in each.parameters() if p.requires_grad)])
    assert len(found[0]) > 20 and all(map(torch.equal, *found))
    assert max(most) == AT_ONCE * swap.bytes() / len(swap.kept)
