"""`t2v sample --best-of N`: the sample that a scorer rates highest stays, and none is lost."""

from dataclasses import asdict
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from transformers import CLIPModel

from t2v.cli import main
from t2v.config.models import UpscalerConfig
from t2v.io.video import read_recipe, read_video
from t2v.models.upscaler import VideoUpscaler
from t2v.nets.clip import ClipModel
from t2v.nets.scorer import Scorer, ScorerTowers
from t2v.pipelines.t2v import T2VPipeline

PROMPT = "a red ball rolls on the grass"
BEST_OF_4 = (PROMPT, "--seed", "3", "--best-of", "4")


@pytest.fixture
def work(tmp_path, pipe, clip_folder, monkeypatch):
    """An empty folder beside a tiny model, and a tiny CLIP that scores."""
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def run(work, capsys):
    """`t2v sample` with them; returns exit code and stderr."""

    def run(*argv, stored=False):
        given = () if stored else ("--model", "../model")
        given += ("scorer=../clip",) if "--best-of" in argv else ()
        return main(["sample", *argv, *given]), capsys.readouterr().err

    return run


def interrupt(monkeypatch, owner, name, call):
    """Ctrl-C in the given call of a method."""
    method, calls = getattr(owner, name), count(1)

    def stop(*args, **kwargs):
        if next(calls) == call:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, stop)


def frames(name):
    return read_video(Path(name))[0]


def sampled_alone(seed):
    """The frames of one sample, as the pipeline gives them: `1 t h w c` uint8."""
    pipe = T2VPipeline.from_pretrained("../model")
    pipe.set_progress_bar_config(disable=True)
    video = pipe(PROMPT, generator=torch.Generator().manual_seed(seed)).frames
    return torch.from_numpy((video * 255).round().astype(np.uint8))


def scores_of_single_samples():
    """The scores of seeds 3 to 6, each sampled alone."""
    scorer, scores = ClipModel("../clip"), {}
    for seed in range(3, 7):
        fits = (
            scorer.embed_video(sampled_alone(seed))[0] @ scorer.embed_text([PROMPT])[0]
        )  # one a frame
        scores[str(seed)] = fits.mean().item()
    return scores


def test_the_best_sample_stays_with_all_scores_in_its_recipe(run, work):
    code, err = run(*BEST_OF_4, "--sheet", "keep_draws=true", "-o", "x.mp4")
    assert code == 0, err
    wanted = scores_of_single_samples()
    best = max(wanted, key=wanted.get)
    recipe = read_recipe(Path("x.mp4"))
    assert recipe["choice"]["scores"] == pytest.approx(wanted, abs=1e-5)
    assert len(set(wanted.values())) == 4 and recipe["settings"]["seed"] == int(best)
    assert recipe["choice"] | {"scores": 0} == {
        "best_of": 4, "first_seed": 3, "scorer": "../clip", "keep_draws": True, "scores": 0,
        "name": recipe["choice"]["name"],
    }  # fmt: skip
    assert f"kept seed {best}" in err and "verify with another" in err
    assert recipe["choice"]["name"] in err
    assert sorted(each.name for each in work.glob("*.mp4")) == [
        "x.mp4", *(f"x.seed-{seed}.mp4" for seed in range(3, 7)),
    ]  # fmt: skip
    np.testing.assert_array_equal(frames("x.mp4"), frames(f"x.seed-{best}.mp4"))
    assert not np.array_equal(frames("x.seed-3.mp4"), frames("x.seed-4.mp4"))
    run(PROMPT, "--seed", best, "-o", "alone.mp4")
    np.testing.assert_array_equal(frames("x.mp4"), frames("alone.mp4"))


def test_plain_samples_are_scored_and_only_what_is_kept_is_enlarged(run, pipe, monkeypatch):
    wanted = scores_of_single_samples()
    upscaler = VideoUpscaler(**asdict(UpscalerConfig(scale=2, width=8, layers=(1, 1, 1))))
    pipe.register_modules(upscaler=upscaler)
    pipe.save_pretrained("../model")
    enlarged, calls = VideoUpscaler.enlarged, []
    monkeypatch.setattr(
        VideoUpscaler, "enlarged", lambda self, pieces: calls.append(1) or enlarged(self, pieces)
    )
    code, err = run(*BEST_OF_4, "-o", "x.mp4")
    assert code == 0, err
    scores = read_recipe(Path("x.mp4"))["choice"]["scores"]
    assert scores == pytest.approx(wanted, abs=1e-5)
    bests = [max(list(scores)[: n + 1], key=scores.__getitem__) for n in range(4)]
    assert len(calls) == len(set(bests)) < 4
    run(PROMPT, "--seed", bests[-1], "-o", "alone.mp4")
    np.testing.assert_array_equal(frames("x.mp4"), frames("alone.mp4"))
    assert frames("x.mp4").shape[1] == 2 * pipe.config.height


def test_a_recipe_of_the_best_makes_that_one_alone(run):
    run(*BEST_OF_4, "-o", "x.mp4")
    assert run("--recipe", "x.mp4", stored=True)[0] == 0
    np.testing.assert_array_equal(frames("x.mp4"), frames("x-again.mp4"))
    kept, again = (read_recipe(Path(name)) for name in ("x.mp4", "x-again.mp4"))
    assert again["choice"] == kept["choice"] and again["settings"]["best_of"] == 1
    assert run("--recipe", "x.mp4", "--seed", "9", "-o", "other.mp4", stored=True)[0] == 0
    assert read_recipe(Path("other.mp4"))["choice"] is None  # nobody chose that one
    code, err = run("--recipe", "x.mp4", "--best-of", "2", stored=True)
    assert code == 2 and "leave best_of out" in err


def test_every_video_of_every_prompt_is_the_best_of_its_own_seeds(run):
    Path("p.txt").write_text(f"{PROMPT}\na blue box\n")
    code, err = run("--prompt-file", "p.txt", "--num-videos", "2", "--best-of", "2", "--seed", "5")
    assert code == 0, err
    names = ("video.mp4", "video-1.mp4", "video-2.mp4", "video-3.mp4")
    recipes = [read_recipe(Path(name)) for name in names]
    seeds = [sorted(map(int, each["choice"]["scores"])) for each in recipes]
    assert seeds == [[5, 6], [7, 8]] * 2
    assert [each["prompt"] for each in recipes] == [PROMPT] * 2 + ["a blue box"] * 2


def test_an_interrupted_choice_goes_on_where_it_was(run, monkeypatch):
    run(*BEST_OF_4, "-o", "whole.mp4")
    scheduler = type(T2VPipeline.from_pretrained("../model").scheduler)
    for owner, name, call, finished in (
        (T2VPipeline, "decode_pieces", 2, 1),  # of the second sample
        (T2VPipeline, "encode_prompt", 2, 1),  # of the second sample, which has no step behind it
        (scheduler, "step", 6, 2),  # twice a sample: the third has one behind it
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, call)
            code, err = run(*BEST_OF_4, "-o", "x.mp4")
        assert code == 130 and "x.latents.safetensors" in err and "--resume" in err
        assert len(read_recipe(Path("x.mp4"))["choice"]["scores"]) == finished
        assert run("--resume", "x.latents.safetensors", "-o", "y.mp4", stored=True)[0] == 2
        code, err = run("--resume", "x.latents.safetensors", stored=True)
        assert code == 0, err
        np.testing.assert_array_equal(frames("whole.mp4"), frames("x.mp4"))
        whole, resumed = (read_recipe(Path(name)) for name in ("whole.mp4", "x.mp4"))
        assert whole["choice"] == resumed["choice"]
        assert not list(Path().glob("*.safetensors"))
        for made in Path().glob("x.*"):
            made.unlink()


def test_resume_refuses_another_scorer_and_a_best_that_is_gone(run):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, T2VPipeline, "decode_pieces", 3)
        run(*BEST_OF_4, "-o", "x.mp4")
    best = Path("x.mp4").read_bytes()
    run("a blue box", "-o", "other.mp4")
    Path("other.mp4").replace("x.mp4")
    code, err = run("--resume", "x.latents.safetensors", stored=True)
    assert code == 2 and "no longer the best of the 2 finished samples" in err
    Path("x.mp4").write_bytes(best)
    other = CLIPModel.from_pretrained("../clip")
    torch.nn.init.normal_(other.text_projection.weight)
    other.save_pretrained("../clip")
    code, err = run("--resume", "x.latents.safetensors", stored=True)
    assert code == 2 and "scored the first samples" in err
    assert Path("x.latents.safetensors").exists()


def test_samples_that_cannot_be_resumed_start_over(run, pipe, monkeypatch):
    pipe.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe.save_pretrained("../model")
    run(*BEST_OF_4, "-o", "whole.mp4")
    with monkeypatch.context() as patch:
        interrupt(patch, UniPCMultistepScheduler, "step", 6)
        code, err = run(*BEST_OF_4, "-o", "x.mp4")
    assert code == 130 and "2 of 4 samples are scored" in err
    assert run("--resume", "x.latents.safetensors", stored=True)[0] == 0
    whole, resumed = (read_recipe(Path(name))["choice"] for name in ("whole.mp4", "x.mp4"))
    assert resumed["scores"] == whole["scores"]
    assert (read_video(Path("whole.mp4"))[0] == read_video(Path("x.mp4"))[0]).all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["best_of=4"], "no scorer is named, and ../model has none"),
        (["best_of=4", "scorer=."], "holds neither a scorer"),
        (["best_of=4", "scorer=../model"], "holds neither a scorer"),
        (["scorer=../clip"], "best_of=N"),
        (["keep_draws=true"], "best_of=N"),
        (["--best-of", "0"], "best_of=0"),
    ],
)
def test_what_is_no_scorer_is_named_before_anything_is_sampled(argv, words, work, capsys):
    code = main(["sample", PROMPT, "--model", "../model", *argv])
    shown = capsys.readouterr().err
    assert code == 2 and words in shown and "Traceback" not in shown
    assert not list(work.iterdir())


def test_a_scorer_of_ours_scores_too(run, tokenizer, text_encoder):
    towers = ScorerTowers(
        channels=8, width=16, layers=1, heads=2, dim=8, text_dim=text_encoder.config.d_model
    )
    scorer = Scorer(towers, tokenizer, text_encoder).eval()
    scorer.save("../scorer")
    code, err = run(PROMPT, "--seed", "3", "best_of=2", "scorer=../scorer")
    assert code == 0, err
    scores = read_recipe(Path("video.mp4"))["choice"]["scores"]
    wanted = {seed: scorer.score(sampled_alone(seed), [PROMPT]).item() for seed in (3, 4)}
    assert {int(seed): score for seed, score in scores.items()} == pytest.approx(wanted, abs=1e-5)
    assert wanted[3] != wanted[4]
