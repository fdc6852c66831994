"""The model that comes with t2v: what it weighs, knows and promises."""

from pathlib import Path

import pytest
import torch

from t2v import T2VPipeline
from t2v.acceleration.table import FILE, read_tables
from t2v.data.world_shards import pixels
from t2v.evaluation.metrics.reconstruction import psnr
from t2v.evaluation.samples import through_vae
from t2v.evaluation.suites import heldout_prompts
from t2v.models.folder import embedded_model, scheduler_hash, weights_hash
from t2v.pipelines.visuals import VideoCondition
from t2v.sampling.budget import fastest
from t2v.world.grammar import words
from t2v.world.oracle import load_oracle
from t2v.world.render import render

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture(scope="module")
def pipe():
    pipe = T2VPipeline.from_pretrained(embedded_model())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def clips():
    return torch.stack([render(scene)[0] for scene in heldout_prompts(8, seed=0)[0]])


def test_a_prompt_becomes_what_it_says(pipe):
    prompts = ["a red ball bounces on grass", "a big blue cube rests at sunset"]
    seed = torch.Generator().manual_seed(0)
    frames = pipe(prompts, generator=seed, upscale=1).frames
    oracle = load_oracle(str(ASSETS / "world-oracle"))
    seen = oracle.classify(pixels(torch.from_numpy(frames * 255).round().to(torch.uint8)))
    assert [(each["colour1"], each["background"]) for each in seen] == [
        ("red", "grass"),
        ("blue", "sunset"),
    ]
    picture = pipe(prompts[0], num_frames=1, num_inference_steps=1).frames
    assert frames.shape[2:] == (64, 64, 3) and picture.shape[1:] == (1, 256, 256, 3)  # enlarged


def test_the_folder_holds_a_card_and_at_most_42_mib():
    files = [path for path in embedded_model().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 42 * 2**20
    assert "README.md" in {path.name for path in files}


def test_its_table_is_of_its_weights_and_has_settings_that_are_surely_twice_as_fast():
    folder = embedded_model()
    (table,) = read_tables(folder / FILE)
    assert table.exact.weights == weights_hash(folder) and table.prompts >= 16
    assert table.exact.scheduler == scheduler_hash(folder)
    assert fastest(table, 0.12, None).measured.speed_low > 2
    assert fastest(table, 1e-4, None) is None


def test_words_outside_the_world_are_named(pipe):
    assert pipe.unknown_words("a red dragon bounces on grass") == ["dragon"]
    assert not pipe.unknown_words(" ".join(words()))


def test_the_vae_keeps_held_out_clips(pipe, clips):
    error = (through_vae(pipe.vae, clips).float() - clips.float()).square().flatten(1).mean(1)
    psnr = 10 * torch.log10(255**2 / error)
    assert psnr.mean() > 28.5


def test_pictures_that_are_given_come_out_as_the_vae_has_them(pipe, clips):
    clip, prompt = clips[2], heldout_prompts(3, seed=0)[1][2]
    given = [VideoCondition(clip[frame].numpy(), frame) for frame in (0, 6, 16)]
    made = pipe(prompt, conditions=given, num_inference_steps=3, upscale=1).frames
    made = torch.from_numpy(made * 255).round().to(torch.uint8)
    own = through_vae(pipe.vae, clip[None])
    for frame in (0, 6, 16):
        ours, best = (psnr(each[:, [frame]], clip[None, [frame]]) for each in (made, own))
        assert ours > best - 1


def test_tiling_leaves_no_seam(pipe, clips):
    vae = pipe.vae
    video = pixels(clips[:1, :5]).repeat(1, 1, 1, 2, 2)  # 128 x 128
    with torch.no_grad():
        whole = vae.decode(vae.encode(video).latent_dist.mean).sample
        vae.enable_tiling(tile_sample_min_size=64)
        tiled = vae.decode(vae.encode(video).latent_dist.mean).sample
        vae.disable_tiling()
    assert (tiled - whole).abs().max() < 2 / 255
