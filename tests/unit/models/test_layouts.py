"""Layouts of attention: who sees whom, on grids of any sides, and what a trained model becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange
from torch import Tensor, nn

from t2v.config.codes import CAUSAL
from t2v.errors import UserError
from t2v.io.text_files import read_json
from t2v.models.attention.layouts import ADDED, LAYOUTS, NORMS, stack
from t2v.models.layers import apply_rotary
from t2v.models.transformer import T2VTransformer3DModel

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "patch_size": (1, 1, 1),
}
Place = tuple[int, int, int]
GRIDS = [(3, 4, 4), (2, 5, 7), (1, 2, 2)]
PARTLY_NEW = {"factorized", "message", "swap"}


def wake(model: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter with noise: fresh zeros would hide half of the network."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def build(**changes: Any) -> T2VTransformer3DModel:
    return wake(T2VTransformer3DModel(**{**SMALL, **changes}))


def inputs(grid: Place = (3, 4, 6), batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "hidden_states": torch.randn(batch, 4, *grid, generator=generator),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
    }


def predict(model: nn.Module, **given: Any) -> Tensor:
    with torch.no_grad():
        return model(**given, return_dict=False)[0]


def pictures(grid: Place, count: int = 2, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)
    places = torch.arange(batch * count).reshape(batch, count) * 0.75
    latents = torch.randn(batch, 4, count, *grid[1:], generator=generator)
    return {"pictures": latents, "picture_positions": places}


def seen_by_layer(word: str, grid: Place, turn: int = 0, closed: tuple[str, ...] = ()) -> Tensor:
    """Which tokens change the answer of which in one layer, `n n`, by their gradients."""
    layers = stack(word, turn + 1, 2)
    model = build(attention=word, num_layers=turn + 1)
    block, count = model.blocks[turn], math.prod(grid)
    for name in closed:
        for parameter in getattr(block, name).to_out[0].parameters():
            nn.init.zeros_(parameter)
    for part in (block.attn1, *block.children()):
        for name, parameter in part.named_parameters():
            if name.startswith(("to_q", "to_k")):
                parameter.data *= 3
    x = torch.randn(1, count, 24, generator=torch.Generator().manual_seed(3)).requires_grad_()
    video = torch.zeros(1, 4, *grid)
    names = dict(zip("thw", grid, strict=True))
    chosen = layers[turn]
    view = chosen.layout.view(model.rope(video), names, chosen.options, chosen.turn)
    gate = torch.ones(1, 1, 24)
    out = chosen.layout.attend(block, x, block.norm1(x), gate, view)
    weights = torch.randn(24, generator=torch.Generator().manual_seed(4))
    rows = [
        torch.autograd.grad((out[0, i] * weights).sum(), x, retain_graph=True)[0][0].abs().sum(-1)
        for i in range(count)
    ]
    return torch.stack(rows) > 0


def rule(grid: Place, sees: Callable[[Place, Place, int, int], bool]) -> Tensor:
    """The matrix of a rule about the places and the numbers of two tokens; each sees itself, as
    what a layer adds is added to it."""
    places = list(product(*map(range, grid)))
    return torch.tensor(
        [[i == j or sees(a, b, i, j) for j, b in enumerate(places)] for i, a in enumerate(places)]
    )


def same(axes: tuple[int, ...]) -> Callable[[Place, Place, int, int], bool]:
    return lambda a, b, i, j: all(a[axis] == b[axis] for axis in axes)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("word", ["full", "window:-1x-1x-1", "window:9x9x9"])
def test_in_full_and_in_one_window_each_token_sees_all(word, grid):
    assert seen_by_layer(word, grid).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sides", [(-1, 4, 4), (2, 2, 3), (1, 4, -1)])
def test_a_token_sees_its_window(sides, grid):
    word = "window:" + "x".join(map(str, sides))
    sides = [side if side > 0 else 99 for side in sides]

    def sees(a: Place, b: Place, i: int, j: int) -> bool:
        return all(x // s == y // s for x, y, s in zip(a, b, sides, strict=True))

    assert torch.equal(seen_by_layer(word, grid), rule(grid, sees))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("turn", "axes"), [(0, (1, 2)), (1, (0, 1)), (2, (0, 2))])
def test_axial_layers_see_time_a_row_and_a_column_in_turn(turn, axes, grid):
    assert torch.equal(seen_by_layer("axial", grid, turn), rule(grid, same(axes)))


@pytest.mark.parametrize("grid", GRIDS)
def test_factorized_heads_see_the_frame_and_the_place_over_time(grid):
    wanted = rule(grid, same((0,))) | rule(grid, same((1, 2)))
    assert torch.equal(seen_by_layer("factorized_heads", grid), wanted)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("stride", [3, 4, 7, 500])
def test_strided_sees_neighbours_and_every_stride_th_token(stride, grid):
    stride_used = min(stride, math.prod(grid))

    def sees(a: Place, b: Place, i: int, j: int) -> bool:
        return abs(i - j) <= stride_used // 2 or (i - j) % stride_used == 0

    assert torch.equal(seen_by_layer(f"strided:{stride}", grid), rule(grid, sees))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("stride", [3, 17, 68])
def test_fixed_sees_its_block_and_the_last_tokens_of_all_blocks(stride, grid):
    count = math.prod(grid)
    stride_used = min(stride, count)
    ends = max(1, min(8, stride_used // 8))

    def sees(a: Place, b: Place, i: int, j: int) -> bool:
        end = min((j // stride_used + 1) * stride_used, count)
        return i // stride_used == j // stride_used or j >= end - ends

    assert torch.equal(seen_by_layer(f"fixed:{stride}", grid), rule(grid, sees))


@pytest.mark.parametrize("grid", GRIDS)
def test_the_stride_is_the_rows_nearest_to_the_root(grid):
    rows = max(1, round(math.sqrt(math.prod(grid)) / grid[2])) * grid[2]
    for word in ("strided", "fixed"):
        given = seen_by_layer(f"{word}:{rows}", grid)
        assert torch.equal(seen_by_layer(word, grid), given)


@pytest.mark.parametrize("grid", GRIDS)
def test_roll_sees_its_frame_and_an_eighth_of_the_frames_beside_it(grid):
    t, _, w = grid

    def sees(a: Place, b: Place, i: int, j: int) -> bool:
        place = (b[1] * w + b[2]) % 8
        frame = {0: (a[0] - 1) % t, 4: (a[0] + 1) % t}.get(place, a[0])
        return b[0] == frame

    assert torch.equal(seen_by_layer("roll", grid), rule(grid, sees))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("word", ["factorized", "message", "swap", "swap:1x2x2"])
def test_two_attentions_in_one_layer_see_all(word, grid):
    assert seen_by_layer(word, grid).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("word", "closed"),
    [
        ("factorized", ("attn_temporal",)),
        ("message", ("attn_message",)),
        ("swap", ("attn_temporal", "attn_swap")),
    ],
)
def test_with_its_new_output_at_zero_a_layer_sees_the_frame(word, closed, grid):
    assert stack(word, 1, 2)[0].layout.zero_start == closed
    assert torch.equal(seen_by_layer(word, grid, closed=closed), rule(grid, same((0,))))


@pytest.mark.parametrize("grid", GRIDS)
def test_swap_looks_from_a_window_at_the_frames_in_it(grid):
    def sees(a: Place, b: Place, i: int, j: int) -> bool:
        windows = [tuple(x // 2 for x in place) for place in (a, b)]
        in_frame = a[0] == b[0]  # by attn1; a key in the window has seen its frame
        return in_frame or windows[0][0] == windows[1][0]

    seen = seen_by_layer("swap:2x2x2", grid, closed=("attn_temporal",))
    assert torch.equal(seen, rule(grid, sees))


@pytest.mark.parametrize("turn", [0, 1])
def test_swap_takes_queries_from_space_in_even_layers_and_from_time_in_odd_ones(turn):
    model = build(attention="swap", num_layers=2)
    block, given = model.blocks[turn], {}

    def keep(attn: nn.Module, args: tuple[Any, ...]) -> None:
        given["query"], given["key"] = args[:2]

    block.attn_swap.register_forward_pre_hook(keep)
    model(**inputs())
    of_time = block.attn_temporal.to_v.weight
    reaches = {
        name: torch.autograd.grad(x.sum(), of_time, retain_graph=True, allow_unused=True)[0]
        for name, x in given.items()
    }
    spatial, temporal = ("query", "key") if turn == 0 else ("key", "query")
    assert reaches[spatial] is None and reaches[temporal].any()


def dense(block: Any, h: Tensor, rotations: Tensor, masks: list[Tensor]) -> Tensor:
    """`attn1` by the whole matrix of scores, each part of the heads with its mask."""
    attn = block.attn1
    query, key, value = attn.project(h)
    query, key = apply_rotary(query, rotations), apply_rotary(key, rotations)
    q, k, v = (rearrange(x, "b n k d -> b k n d") for x in (query, key, value))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    mask = torch.stack(masks) if len(masks) > 1 else masks[0].expand(q.shape[1], -1, -1)
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return attn.to_out[0](rearrange(weights @ v, "b k n d -> b n (k d)"))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_in_sight_is_that_of_a_masked_matrix(grid, batch):
    def near(a: Place, b: Place, i: int, j: int) -> bool:
        return abs(i - j) <= 2

    wanted = {
        "full": [same(())],
        "window:2x3x2": [
            lambda a, b, i, j: all(
                x // s == y // s for x, y, s in zip(a, b, (2, 3, 2), strict=True)
            )
        ],
        "axial": [same((1, 2))],
        "factorized_heads": [same((0,)), same((1, 2))],
        "strided:4": [near, lambda a, b, i, j: (i - j) % 4 == 0],
        "fixed:5": [lambda a, b, i, j: i // 5 == j // 5],
    }
    count = math.prod(grid)
    summaries = torch.zeros(count, count, dtype=torch.bool)
    summaries[:, [min(start + 5, count) - 1 for start in range(0, count, 5)]] = True
    for word, rules in wanted.items():
        model = build(attention=word)
        block, chosen = model.blocks[0], model.blocks[0].chosen
        masks = [rule(grid, each) for each in rules]
        if word == "fixed:5":
            masks.append(summaries)
        if word == "strided:4" and count < 4:
            continue
        h = torch.randn(batch, count, 24, generator=torch.Generator().manual_seed(3))
        rotations = model.rope(torch.zeros(1, 4, *grid))
        names = dict(zip("thw", grid, strict=True))
        view = chosen.layout.view(rotations, names, chosen.options, chosen.turn)
        out = chosen.layout.attend(block, torch.zeros_like(h), h, torch.ones(1, 1, 24), view)
        reference = dense(block, h, rotations, masks)
        torch.testing.assert_close(out, reference, atol=1e-6, rtol=1e-5, msg=word)


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_of_full_size_are_plain_attention(grid):
    wanted = predict(build(), **inputs(grid))
    answer = predict(build(attention="window:-1x-1x-1"), **inputs(grid))
    torch.testing.assert_close(answer, wanted, atol=1e-6, rtol=1e-5)
    swapped, plain = build(attention="swap:-1x-1x-1"), build(attention="swap:-1x-1x-1")
    for block in plain.blocks:
        block.attn_swap.forward = partial(_without_sights, block.attn_swap)
    answer, wanted = predict(swapped, **inputs(grid)), predict(plain, **inputs(grid))
    torch.testing.assert_close(answer, wanted, atol=1e-6, rtol=1e-5)


def _without_sights(attn: nn.Module, *given: Any, sights: Any) -> Tensor:
    return attn.processor(attn, *given)


@pytest.mark.parametrize("word", LAYOUTS)
def test_pictures_are_frames_after_the_last_one(word):
    grid = (3, 4, 5)
    model = build(attention=word, picture_tokens=True)
    given = inputs(grid) | pictures(grid)
    answer = predict(model, **given)
    assert answer.shape == given["hidden_states"].shape
    for row in range(2):
        alone = {name: x[row : row + 1] for name, x in given.items()}
        torch.testing.assert_close(
            predict(model, **alone), answer[row : row + 1], atol=1e-5, rtol=1e-4
        )
    other = predict(model, **given | {"pictures": -given["pictures"]})
    is_seen = word not in CAUSAL  # in which no token sees a later one
    assert bool((other - answer).abs().max() > 1e-6) == is_seen


@pytest.mark.parametrize("word", LAYOUTS)
def test_equal_times_of_all_tokens_are_one_time(word):
    model, given = build(attention=word), inputs()
    times = given["timestep"].unsqueeze(1).expand(-1, 72)
    torch.testing.assert_close(
        predict(model, **given | {"timestep": times}),
        predict(model, **given),
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_stack_is_taken_from_the_first_again_and_turns_count_their_own_word():
    words = [chosen.word for chosen in stack(["full", "window", "window:1x2x2"], 5, 2)]
    assert words == ["full", "window", "window:1x2x2", "full", "window"]
    layers = stack(["axial", "full"], 8, 2)
    assert [chosen.turn for chosen in layers] == [0, 0, 1, 0, 2, 0, 0, 0]
    assert [len(chosen.motion) for chosen in layers] == [1, 0, 0, 0, 0, 0, 1, 0]  # full mixes both


@pytest.mark.parametrize("attention", ["window:2x2x2", ["full", "axial", "message"]])
def test_a_stack_is_saved_and_loaded(attention, tmp_path):
    model = build(attention=attention, num_layers=3)
    model.save_pretrained(tmp_path)
    assert read_json(tmp_path / "config.json")["attention"] == attention
    loaded = T2VTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded, **inputs()), predict(model, **inputs()))


def test_one_word_is_saved_as_a_text_and_a_config_without_any_is_full(tmp_path):
    build(attention=("window",)).save_pretrained(tmp_path)
    assert read_json(tmp_path / "config.json")["attention"] == "window"
    config = {name: value for name, value in build().config.items() if name != "attention"}
    assert T2VTransformer3DModel.from_config(config).config.attention == "full"


@pytest.mark.parametrize("word", [word for word in LAYOUTS if word not in PARTLY_NEW])
def test_a_full_model_answers_by_a_layout_without_new_weights(word):
    model = build()
    model.set_attention(word)
    assert torch.equal(predict(model, **inputs()), predict(build(attention=word), **inputs()))
    model.set_attention("full")
    assert torch.equal(predict(model, **inputs()), predict(build(), **inputs()))
    assert model._cp_plan is not None


@pytest.mark.parametrize("word", sorted(PARTLY_NEW))
def test_a_layout_with_new_weights_wants_a_generator_and_cannot_be_left(word):
    model = build()
    with pytest.raises(UserError, match="needs weights that this model has not"):
        model.set_attention(["full", word])
    assert torch.equal(predict(model, **inputs()), predict(build(), **inputs()))
    model.set_attention(word, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="would be left out"):
        model.set_attention("full")


def test_new_parts_begin_at_zero_with_the_projections_of_the_old_ones():
    by_frame = build()
    by_frame.set_attention("window:1x-1x-1")
    wanted = predict(by_frame, **inputs())
    for word in ("factorized", "swap"):
        model = build()
        model.set_attention(word, torch.Generator().manual_seed(0))
        torch.testing.assert_close(predict(model, **inputs()), wanted, atol=1e-6, rtol=1e-5)
        block = model.blocks[1]
        assert torch.equal(block.attn_temporal.to_q.weight, block.attn1.to_q.weight)
        assert torch.equal(block.attn_temporal.norm_k.weight, block.attn1.norm_k.weight)
    again = [build(), build()]
    for model in again:
        model.set_attention("message", torch.Generator().manual_seed(1))
    assert torch.equal(*(predict(model, **inputs()) for model in again))


@pytest.mark.parametrize("word", LAYOUTS)
def test_the_parts_of_a_layout_are_known_by_name(word):
    layout = stack(word, 1, 2)[0].layout
    parts = layout.parts(24, 2, qk_norm="rms_norm", eps=1e-6)
    assert set(parts) <= set(ADDED) and bool(parts) == (word in PARTLY_NEW)
    norms = {name for name, part in parts.items() if isinstance(part, FP32LayerNorm)}
    assert norms == set(NORMS) & set(parts)
    assert set(layout.motion) <= {"attn1", *parts}


def test_layers_that_attend_by_groups_are_not_split_over_devices():
    for word in ("full", "factorized"):
        assert build(attention=word)._cp_plan is not None
    others = [word for word in LAYOUTS if word not in ("full", "factorized")]
    for attention in (*others, ["full", "window"], ["full", "factorized"]):
        assert build(attention=attention)._cp_plan is None


@pytest.mark.parametrize(
    "word",
    [
        *(pytest.param(word, marks=pytest.mark.slow) for word in LAYOUTS if word != "strided"),
        "strided",
    ],
)
def test_blocks_of_every_layout_are_compiled_whole(word):
    model, given = build(attention=word, num_layers=1), inputs((3, 5, 3))
    wanted = predict(model, **given)
    torch._dynamo.reset()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(predict(model, **given), wanted, atol=1e-6, rtol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        ("windows", "Choose among full, factorized"),
        ([], "name at least one"),
        ("full:2", "takes no numbers"),
        ("window:4x4", "frames, rows and columns"),
        ("window:0x4x4", "frames, rows and columns"),
        ("window:", "frames, rows and columns"),
        ("window:axbxc", "frames, rows and columns"),
        ("strided:-1", "the stride must be at least 1"),
        ("fixed:4x4", "takes its stride"),
    ],
)
def test_a_word_that_is_none_is_refused_with_what_is_allowed(attention, words):
    with pytest.raises(UserError, match=words):
        build(attention=attention)


def test_a_layout_of_two_kinds_of_heads_wants_two_heads():
    for word in ("strided", "fixed", "factorized_heads"):
        with pytest.raises(UserError, match="2 kinds, and this model has 1"):
            build(attention=word, num_attention_heads=1)
