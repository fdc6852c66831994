"""`t2v sample` through its door: prompt to mp4, recipes, interruptions, mistakes."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2v.cli import main
from t2v.io.video import read_recipe, read_video, write_video
from t2v.models.vae import AutoencoderKLT2V
from t2v.pipelines.t2v import T2VPipeline
from t2v.sampling import recipe

PROMPT = "a red ball rolls on the grass"


@pytest.fixture
def model(tmp_path):
    """Where the folder of the tiny pipeline will be; `run` writes it when it is needed."""
    return tmp_path / "model"


@pytest.fixture
def run(pipe, model, tmp_path, monkeypatch, capsys):
    """`t2v sample` in an empty folder with the tiny model; returns exit code, stdout, stderr."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*argv, use_model=True):
        if use_model and not model.exists():
            pipe.save_pretrained(model)
        code = main(["sample", *argv, *(["--model", str(model)] if use_model else [])])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def interrupt(monkeypatch, owner, name, call=1):
    """Ctrl-C in the given call of a method."""
    method, calls = getattr(owner, name), count(1)

    def stop(*args, **kwargs):
        if next(calls) == call:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, stop)


def test_a_prompt_becomes_an_mp4_with_its_recipe_beside_it(run, tmp_path):
    code, out, err = run(PROMPT, "--seed", "3")
    video = tmp_path / "work" / "video.mp4"
    assert code == 0, err
    assert out.splitlines()[-1] == str(video)
    frames, fps = read_video(video)
    assert frames.shape == (9, 32, 48, 3) and fps == 8
    assert sorted(each.name for each in video.parent.iterdir()) == ["video.json", "video.mp4"]
    stored = read_recipe(video)
    assert stored == json.loads(video.with_suffix(".json").read_text())
    assert (stored["prompt"], stored["settings"]["seed"]) == (PROMPT, 3)
    assert None not in (stored["settings"][name] for name in ("height", "num_frames", "fps"))
    for words in ("tokens 8/12", "seed 3", "denoise", "decode"):
        assert words in err


def test_a_sample_is_the_one_the_pipeline_gives(run, pipe, monkeypatch):
    written = []

    def write(path, pieces, *rest):
        frames = np.concatenate(list(pieces))
        written.append(frames)
        write_video(path, frames, *rest)

    monkeypatch.setattr("t2v.io.video.write_video", write)
    assert run(PROMPT, "--seed", "5")[0] == 0
    frames = pipe(PROMPT, generator=torch.Generator().manual_seed(5)).frames[0]
    np.testing.assert_array_equal(written[0], (frames * 255).round().astype(np.uint8))


def test_the_recipe_makes_the_same_video_again(run, tmp_path):
    run(PROMPT, "--seed", "3", "--frames", "6", "--steps", "3", "-o", "a.mp4", "--fps", "7.5")
    for source in ("a.mp4", "a.json"):
        code, out, err = run("--recipe", source, use_model=False)
        assert code == 0, err
        assert out.strip() == str(tmp_path / "work" / "a-again.mp4")
        np.testing.assert_array_equal(read_video("a.mp4")[0], read_video("a-again.mp4")[0])
    assert read_video("a.mp4")[0].shape[0] == 6
    assert float(read_video("a-again.mp4")[1]) == 7.5


def test_a_recipe_refuses_another_model_unless_it_is_named(run, model, pipe, tmp_path):
    run(PROMPT, "-o", "a.mp4")
    with torch.no_grad():
        pipe.transformer.proj_out.bias.add_(1)
    pipe.save_pretrained(model)
    code, _, err = run("--recipe", "a.mp4", use_model=False)
    assert code == 2 and "are not those of the recipe" in err
    code, _, err = run("--recipe", "a.mp4")
    assert code == 0 and "made with weights" in err


def test_several_prompts_and_videos_get_numbered_names_and_their_own_seeds(run, tmp_path):
    code, out, _ = run(PROMPT, "a blue box", "--num-videos", "2", "--seed", "7", "-o", "v/x.mp4")
    names = ["x.mp4", "x-1.mp4", "x-2.mp4", "x-3.mp4"]
    assert code == 0
    assert out.split() == [str(tmp_path / "work" / "v" / name) for name in names]
    made = [read_recipe(tmp_path / "work" / "v" / name) for name in names]
    assert [each["settings"]["seed"] for each in made] == [7, 8, 7, 8]
    assert [each["prompt"] for each in made] == [PROMPT] * 2 + ["a blue box"] * 2
    run("a blue box", "--seed", "8", "-o", "alone.mp4")
    np.testing.assert_array_equal(read_video("v/x-3.mp4")[0], read_video("alone.mp4")[0])


def test_prompts_come_from_a_file(run, tmp_path):
    (tmp_path / "work" / "p.txt").write_text("a red ball\n\n a blue box \n")
    code, out, _ = run("--prompt-file", "p.txt", "--sheet", "--gif")
    assert code == 0 and len(out.split()) == 2
    with Image.open("video.sheet.png") as sheet, Image.open("video-1.gif") as gif:
        assert sheet.size == (8 * 48 * 4, 2 * (32 * 4 + 20))
        assert gif.n_frames == 9


def test_a_duration_gives_exactly_its_frames(run):
    assert run(PROMPT, "--duration", "1.25")[0] == 0
    assert len(read_video("video.mp4")[0]) == 10


@pytest.mark.parametrize("step", [2, 4])
def test_ctrl_c_while_denoising_keeps_the_steps_and_resume_gives_the_same_video(
    step, run, monkeypatch
):
    run(PROMPT, "--steps", "5", "-o", "whole.mp4")
    with monkeypatch.context() as patch:
        interrupt(patch, FlowMatchEulerDiscreteScheduler, "step", step)
        code, _, err = run(PROMPT, "--steps", "5", "-o", "a.mp4")
    assert code == 130
    assert f"{step - 1} of 5 steps are kept" in err and "t2v sample --resume" in err
    code, _, err = run("--resume", "a.latents.safetensors", use_model=False)
    assert code == 0, err
    np.testing.assert_array_equal(read_video("whole.mp4")[0], read_video("a.mp4")[0])
    assert not list(Path().glob("*.safetensors"))


def test_ctrl_c_while_decoding_keeps_the_latents_for_resume(run, monkeypatch):
    run(PROMPT, "-o", "whole.mp4")
    with monkeypatch.context() as patch:
        interrupt(patch, T2VPipeline, "decode_pieces")
        code, _, err = run(PROMPT, "-o", "a.mp4")
    assert code == 130 and "The latents are kept" in err
    assert load_file("a.latents.safetensors")["latents"].shape == (1, 8, 3, 4, 6)
    assert "--resume a.latents" in run("--recipe", "a.latents.safetensors", use_model=False)[2]
    assert "--recipe b.mp4" in run("--resume", "b.mp4", use_model=False)[2]
    assert run("--resume", "a.latents.safetensors", "-o", "b.mp4", use_model=False)[0] == 0
    np.testing.assert_array_equal(read_video("whole.mp4")[0], read_video("b.mp4")[0])


def test_a_failed_decode_keeps_the_latents_and_says_so(run, monkeypatch):
    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(T2VPipeline, "decode_pieces", no_memory)
    code, _, err = run(PROMPT)
    assert code == 2
    assert "do not fit into the memory" in err and "--resume" in err
    assert load_file("video.latents.safetensors")


def test_a_video_that_does_not_fit_whole_is_decoded_by_tiles(run, monkeypatch):
    decode = AutoencoderKLT2V.decode_pieces

    def of_tiles(vae, *args, **options):
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(vae, *args, **options)

    assert run(PROMPT, "vae_tiling=true", "-o", "tiles.mp4")[0] == 0
    monkeypatch.setattr(AutoencoderKLT2V, "decode_pieces", of_tiles)
    code, _, err = run(PROMPT, "-o", "a.mp4")
    assert code == 0 and "by tiles, which are blended" in err, err
    assert (read_video("a.mp4")[0] == read_video("tiles.mp4")[0]).all()


def test_merged_tokens_make_another_video_and_the_recipe_makes_it_again(run):
    assert run(PROMPT, "-o", "whole.mp4")[0] == 0
    assert run(PROMPT, "token_merging=0.5", "-o", "merged.mp4")[0] == 0
    assert run("--recipe", "merged.mp4", "-o", "again.mp4")[0] == 0
    assert "token_merging" not in json.loads(Path("whole.json").read_text())
    whole, merged, again = (read_video(f"{name}.mp4")[0] for name in ("whole", "merged", "again"))
    assert (merged == again).all() and (merged != whole).any()
    code, _, err = run(PROMPT, "token_merging=0.5", "compile=true", "-o", "x.mp4")
    assert code == 2 and "Leave one out" in err


def test_a_run_whose_scheduler_remembers_starts_anew(run, model, pipe, monkeypatch):
    pipe.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe.save_pretrained(model)

    interrupt(monkeypatch, UniPCMultistepScheduler, "step", 2)
    code, _, err = run(PROMPT)
    assert code == 130 and "starts over" in err


def test_resume_refuses_what_would_change_the_video(run, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, T2VPipeline, "decode_pieces")
        run(PROMPT)
    code, _, err = run("--resume", "video.latents.safetensors", "--seed", "9", use_model=False)
    assert code == 2 and "seed: fixed by" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "There is no prompt"),
        (["  "], "A prompt is empty"),
        ([PROMPT, "--height", "-16"], "more than 0"),
        ([PROMPT, "--frames", "0"], "more than 0"),
        ([PROMPT, "--steps", "0"], "more than 0"),
        ([PROMPT, "--frames", "9", "--duration", "1"], "give one of them"),
        ([PROMPT, "--num-videos", "0"], "num_videos_per_prompt=0"),
        ([PROMPT, "-o", "video.avi"], "ends in .mp4 (H.264), .webm (VP9), .mov (ProRes"),
        ([PROMPT, "-o", "x.y/"], "a name without a dot"),
        ([PROMPT, "-o", "x/", "keep_draws=true", "best_of=2"], "it makes several files"),
        ([PROMPT, "-o", "x.gif", "--gif"], "it is a gif already"),
        ([PROMPT, "-o", "/proc/nowhere/video.mp4"], "cannot be written"),
        ([PROMPT, "--device", "abacus"], "not available on this machine"),
        (["--resume", "nowhere.safetensors"], "No such file"),
        (["--recipe", "nowhere.mp4"], "cannot be read"),
    ],
)
def test_a_mistake_is_found_before_the_model_is_loaded(argv, words, run):
    code, out, err = run(*argv, use_model=False)
    assert (code, out) == (2, "")
    assert words in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a ball " * 20], "takes 41 tokens and 12 fit"),
        ([PROMPT, "--height", "33"], "Nearest: 32 or 48"),
        ([PROMPT, "--attention", "warp"], "warp"),
        ([PROMPT, "--attention", "flash"], "flash"),
        ([PROMPT, "a ball " * 20], "takes 41 tokens and 12 fit"),
    ],
)
def test_a_mistake_is_found_before_anything_is_sampled(argv, words, run):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert words in err and "Traceback" not in err
    assert not list(Path().iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_a_users_error(run):
    code, _, err = run(PROMPT, "--device", "cuda", use_model=False)
    assert code == 2 and "device=cuda: not available on this machine" in err


def test_a_too_long_prompt_is_cut_off_on_request(run):
    code, _, err = run("a ball " * 20, "--truncate")
    assert code == 0 and "cut off" in err


def test_words_the_model_never_saw_are_named(run):
    _, _, err = run("a red zebra rolls")
    assert err.count("zebra") == 2  # the prompt itself, and the warning


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "no such folder"), (".", "no model_index.json"), ("nobody/nothing", "Hub")],
)
def test_a_missing_model_is_named(name, words, run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = run(PROMPT, "--model", name, use_model=False)
    assert code == 2 and f"model={name}" in err and words in err


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_broken_weights_are_a_users_error(damage, run, pipe, model):
    pipe.save_pretrained(model)
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    code, _, err = run(PROMPT)
    assert code == 2 and "transformer/" in err and "Download" in err


def poison(folder, part, value="nan"):
    """Write a bad number into the last weight of a part."""
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    list(tensors.values())[-1].view(-1)[-1] = float(value)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_weights_that_are_no_numbers_are_named_and_nothing_is_written(run, pipe, model, part):
    pipe.save_pretrained(model)
    poison(model, part)
    code, _, err = run(PROMPT)
    assert code == 2 and "Traceback" not in err
    assert type(getattr(pipe, part)).__name__ in err and "NaN or infinite" in err
    assert list(Path().iterdir()) == []


def test_a_decoder_that_overflows_keeps_the_latents_and_writes_no_video(run, pipe, monkeypatch):
    method = type(pipe.vae).decode_pieces

    def decode(vae, z):
        *good, last = method(vae, z)
        yield from (*good, last * float("inf"))

    monkeypatch.setattr(type(pipe.vae), "decode_pieces", decode)
    code, _, err = run(PROMPT)
    assert code == 2 and "NaN or inf in the output of the vae" in err and "latents are kept" in err
    assert "computes in float32" in err and "take dtype" not in err.lower()
    kept = {path.name for path in Path().iterdir()}
    assert "video.latents.safetensors" in kept and not kept & {"video.mp4", "video.json"}
    monkeypatch.undo()


def test_latents_that_are_no_numbers_are_not_resumed(run, monkeypatch, tmp_path):
    interrupt(monkeypatch, T2VPipeline, "decode_pieces")
    run(PROMPT)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "work")
    path = Path("video.latents.safetensors")
    with safe_open(path, "pt") as file:
        about, latents = file.metadata(), file.get_tensor("latents")
    latents.view(-1)[7] = float("nan")
    save_file({"latents": latents}, path, metadata=about)
    code, _, err = run("--resume", str(path), use_model=False)
    assert code == 2 and "NaN or infinite numbers" in err
    assert path.exists() and not Path("video.mp4").exists()


def test_another_number_of_threads_is_told_and_old_recipes_have_none(run):
    run(PROMPT)
    path = Path("video.json")
    told = json.loads(path.read_text())
    assert told["versions"]["threads"] == str(torch.get_num_threads())
    for threads, warned in (("97", True), (None, False)):
        told["versions"]["threads"] = threads
        if threads is None:
            del told["versions"]["threads"]
        path.write_text(json.dumps(told))
        code, _, err = run("--recipe", str(path), use_model=False)
        assert code == 0 and ("made with threads 97, now" in err) == warned


def test_a_recipe_reads_back_as_the_settings_that_made_it(run, tmp_path):
    run(PROMPT, "--frames", "5", "--negative-prompt", "no", "--guidance", "2.5")
    path = tmp_path / "work" / "video.mp4"
    read = recipe.read(read_recipe(path), path)
    assert read.settings.num_frames == 5 and read.settings.negative_prompt == "no"
    assert read.to_json() == read_recipe(path)


def test_a_negative_prompt_without_guidance_is_told_to_do_nothing(run):
    for guidance, warned in (("2.5", False), ("1", True)):
        _, _, err = run(PROMPT, "--negative-prompt", "no", "--guidance", guidance)
        assert ("negative_prompt='no' does nothing at guidance_scale=1" in err) == warned


def test_a_preview_is_written_and_removed(run, monkeypatch):
    seen = []
    monkeypatch.setattr("t2v.sampling.watch.save_image", lambda path, image: seen.append(path.name))
    assert run(PROMPT, "--steps", "4", "--preview-every", "2")[0] == 0
    assert seen == ["video.preview.png"] * 2


def test_another_packages_pipeline_runs_too(run, wan, tmp_path):
    wan.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    wan.save_pretrained(tmp_path / "wan")
    argv = [PROMPT, "--model", str(tmp_path / "wan"), "--height", "16", "--width", "16"]
    code, _, err = run(*argv, "--frames", "6", "--steps", "2", use_model=False)
    assert code == 0, err
    frames, fps = read_video("video.mp4")
    assert frames.shape == (6, 16, 16, 3) and fps == 16
    code, _, err = run("--recipe", "video.mp4", use_model=False)
    assert code == 0, err
    assert (read_video("video-again.mp4")[0] == frames).all()


def test_a_lora_is_applied_and_its_file_belongs_to_the_recipe(run, pipe, model, tmp_path):
    pipe.save_pretrained(model)
    pipe.transformer.add_adapter(LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(tmp_path / "style", transformer_lora_layers=layers)
    lora = f"lora={tmp_path / 'style'}"
    assert run(PROMPT, "-o", "plain.mp4")[0] == 0
    code, _, err = run(PROMPT, lora, "lora_scale=0.8", "-o", "a.mp4")
    assert code == 0 and "at scale 0.8 changes the prediction by" in err, err
    assert len(read_recipe("a.mp4")["lora"]) == 64
    run(PROMPT, lora, "lora_scale=0", "-o", "zero.mp4")
    plain, tuned, zero = (read_video(f"{name}.mp4")[0] for name in ("plain", "a", "zero"))
    assert (zero == plain).all() and (tuned != plain).any()
    assert run("--recipe", "a.mp4", use_model=False)[0] == 0
    assert (read_video("a-again.mp4")[0] == tuned).all()
    code, _, err = run(PROMPT, lora, "lora_scale=0.8", "offload=group", "-o", "waits.mp4")
    assert code == 0, err
    assert (read_video("waits.mp4")[0] == tuned).all()
    pipe.save_lora_weights(tmp_path / "b", transformer_lora_layers=layers)
    both = f"lora=[{tmp_path / 'style'}, {tmp_path / 'b'}]"
    code, _, err = run(PROMPT, both, "lora_scale=[0.5, 0.3]", "-o", "two.mp4")
    assert code == 0 and err.count("changes the prediction by") == 2, err
    stored = read_recipe("two.mp4")
    assert [len(each) for each in stored["lora"]] == [64, 64]
    assert stored["settings"]["lora_scale"] == [0.5, 0.3]
    two = read_video("two.mp4")[0].astype(int)
    assert abs(two - tuned.astype(int)).max() <= 1 and (two != plain).any()  # 0.5 + 0.3 of the same
    assert run("--recipe", "two.mp4", use_model=False)[0] == 0
    assert (read_video("two-again.mp4")[0] == two).all()
    code, _, err = run(PROMPT, lora, "lora_preset=wan21-lightx2v", "--steps", "2", "-o", "p.mp4")
    assert code == 0 and "num_inference_steps=2 guidance_scale=1 shift=5" in err, err
    settings = read_recipe("p.mp4")["settings"]
    assert settings["lora_preset"] == "wan21-lightx2v" and settings["shift"] == 5
    assert settings["num_inference_steps"] == 2 and settings["guidance_scale"] == 1
    assert run("--recipe", "p.mp4", use_model=False)[0] == 0
    assert (read_video("p-again.mp4")[0] == read_video("p.mp4")[0]).all()
    code, _, err = run(PROMPT, both, "lora_scale=[1, 2, 3]", "-o", "three.mp4")
    assert code == 2 and "lora_scale=[1.0, 2.0, 3.0]: 3 values for 2 LoRA files" in err
    other = {name: 2 * tensor for name, tensor in layers.items()}
    pipe.save_lora_weights(tmp_path / "style", transformer_lora_layers=other)
    code, _, err = run("--recipe", "a.mp4", use_model=False)
    assert code == 2 and "not the file it was" in err
    assert run(PROMPT, "lora_scale=0.5")[0] == 2


def test_the_signs_of_a_prompt_stand_in_its_recipe_and_it_makes_the_video_again(run, pipe):
    signs = ["--prompt-syntax", "-o", "x.mp4", "num_videos_per_prompt=2", "seed=1"]
    written = "[0-0.5s] a {red|blue} (ball:1.5) [0.5-1s] the box"
    code, _, err = run(written, *signs)
    assert code == 0, err
    assert "tokens 4+3/12" in err
    recipes = [read_recipe(Path(name)) for name in ("x.mp4", "x-1.mp4")]
    assert {each["prompt"] for each in recipes} == {
        "[0-0.5s] a red (ball:1.5) [0.5-1s] the box",
        "[0-0.5s] a blue (ball:1.5) [0.5-1s] the box",
    }
    assert recipes[0]["written"] == recipes[1]["written"] == written
    assert recipes[0]["settings"]["prompting"] == {"syntax": True}
    code, _, err = run("--recipe", "x-1.mp4", use_model=False)
    assert code == 0, err
    assert np.array_equal(read_video(Path("x-1.mp4"))[0], read_video(Path("x-1-again.mp4"))[0])
    assert read_recipe(Path("x-1-again.mp4"))["written"] == written
    code, _, err = run("--recipe", "x.mp4", "prompting.templates=all", use_model=False)
    assert code == 2 and "A recipe has its prompt as it was made" in err
    code, _, err = run(
        "a {red|blue} ball", "--prompt-syntax", "prompting.templates=all", "-o", "y.mp4"
    )
    assert code == 0 and Path("y-1.mp4").exists() and not Path("y-2.mp4").exists()
    code, _, err = run("[0-1s] a ball [1-9s] a box", "--prompt-syntax", "-o", "z.mp4")
    assert code == 2 and "duration=9" in err and not Path("z.mp4").exists()
