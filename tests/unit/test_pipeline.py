"""The pipeline: what it promises to a caller."""

import torch

PROMPT = "a red ball rolls on the grass"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_prompt_becomes_frames(pipe):
    output = pipe(PROMPT, generator=seeded(0))
    assert output.frames.shape == (1, 9, 32, 48, 3)
    assert output.fps == 8
    assert output.frames.std() > 0.05
