"""Footage on disk, as a manifest or media folder, trains every model and resumes to the bit."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from t2v.cli import main
from t2v.config.data import ClipsConfig, CurriculumStage
from t2v.config.finetune import FinetuneConfig
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.tasks.dit import build_dit, train_dit
from t2v.training.tasks.finetune import build_finetune
from t2v.training.tasks.vae import build_vae, train_vae

CLIPS = ClipsConfig(
    fps=8, resolution=64, num_frames=9, workers=1, aspects=("5:3", "3:5", "1:1"),
    stages=(CurriculumStage(num_frames=5), CurriculumStage(from_step=2, image_ratio=0.5)),
)  # fmt: skip


def state_of(checkpoint):
    return {
        f"{path.relative_to(checkpoint)}:{name}": tensor
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def losses_of(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_transformer_trains_on_a_folder_through_its_stages_and_resumes(
    dit_config, media, tmp_path
):
    config = replace(dit_config, data=str(media), clips=CLIPS, steps=4)
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=3))
    resumed = train_dit(other)
    a, b = state_of(whole), state_of(resumed)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert losses_of(whole.parent) == losses_of(resumed.parent)
    assert T2VPipeline.from_pretrained(whole).config.num_frames == 9
    task = build_dit(config)
    shapes = [tuple(task.batch(step).latents.shape[2:]) for step in range(8)]
    assert {shape[0] for shape in shapes[:2]} == {2}
    assert [shape[0] for shape in shapes[2:]].count(1) == 3
    joint = build_dit(replace(config, batch_size=6))
    ranks = [task.batch(5, rank, 2).latents for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), joint.batch(5).latents)


def test_a_vae_trains_on_a_folder_and_resumes(vae_config, media, tmp_path):
    clips = replace(CLIPS, stages=())
    config = replace(vae_config, data=str(media), clips=clips, image_ratio=0.5)
    whole = train_vae(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_vae(replace(other, steps=2))
    a, b = state_of(whole), state_of(train_vae(other))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    task = build_vae(config)
    frames = [task.batch(step).video.shape[2] for step in range(8)]
    assert frames.count(1) == 4
    assert set(frames) <= {1, 5, 9}
    figures = task.validate().figures
    assert figures["val_psnr"] > 0
    assert "val_psnr_object" not in figures  # footage has no masks


@pytest.mark.parametrize("listed", [True, False])
def test_a_fine_tune_takes_footage_at_the_sizes_of_its_base(pipe, media, tmp_path, listed):
    pipe.register_to_config(num_frames=9, height=48, width=80)
    pipe.save_pretrained(tmp_path / "base")
    if listed:
        rows = [{"path": f"{n}.mp4", "caption": "the red ball"} for n in range(9)]
        (media / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"),
        data=str(media / "list.jsonl" if listed else media),
        output=str(tmp_path / "tuned"), batch_size=2, held_out=2, clips=ClipsConfig(workers=1),
    )  # fmt: skip
    task = build_finetune(config)
    assert len(task.data.rows) == (9 if listed else 10)  # the pictures are left out
    assert task.data.train_count == len(task.data.rows) - 2
    assert {tuple(task.batch(step).latents.shape) for step in range(6)} >= {(2, 8, 3, 6, 10)}


def test_encode_refuses_clips_that_cannot_be_used_before_it_writes(tmp_path, capsys):
    rows = [
        {"path": "gone.mp4", "caption": "a ball"},
        {"path": "film.mp4"},
        {"path": "film.mp4", "dropped": "topics", "reason": "fits its topic (ball) by 0.1: 0.2"},
    ]
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["encode", str(tmp_path / "list.jsonl"), "model=nowhere", f"output={tmp_path / 'out'}"]
    assert main(words) == 2
    assert (
        "None of the 3 clips can be used "
        "(1 x data: no file; 1 x data: no caption; 1 x topics: fits its topic)."
    ) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_encode_reports_every_clip_and_training_takes_what_it_made(
    pipe, awkward, dit_config, tmp_path, capsys
):
    pipe.register_to_config(num_frames=9, height=48, width=80)
    pipe.save_pretrained(tmp_path / "base")
    output = tmp_path / "encoded"
    words = [
        "encode", str(awkward), f"model={tmp_path / 'base'}", f"output={output}",
        "clips.workers=1", "precision=fp32", "clips.image_ratio=0.5",
    ]  # fmt: skip
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(output / "report.txt")
    report = json.loads((output / "report.json").read_text())
    rows = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    assert report["in"] == len(rows) == 19
    assert report["kept"] + report["dropped"] == report["in"]
    assert report["dropped"] == sum(bool(row["dropped"]) for row in rows)
    assert report["dropped"] == sum(report["dropped by"].values())
    assert sum(report["buckets (frames x height x width)"].values()) == report["kept"] == 6
    assert sum(report["tokens of a caption"].values()) == report["captions"] == 6
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.height > 6 * 48
        assert len(sheet.getcolors(1 << 24)) > 100
    shards = {path: path.read_bytes() for path in output.rglob("*.safetensors")}
    assert {path.parent.name for path in shards} == {"latents", "text"}
    for name in ("0.mp4", "turned.mp4"):  # the footage is not needed any more
        (awkward / name).unlink()
    clips = ClipsConfig(fps=8, resolution=62, num_frames=9, workers=1, image_ratio=0.5)
    config = replace(
        dit_config, data=str(output), vae=str(tmp_path / "base"), clips=clips, held_out=1,
        precision="fp32", text=str(tmp_path / "base"), train_text_encoder=False,
    )  # fmt: skip
    task = build_dit(config)
    assert task.data.train_count == 5
    task.prepare()
    assert shards == {path: path.read_bytes() for path in output.rglob("*.safetensors")}
    assert main(["encode", str(output), *words[2:]]) == 2
    assert "would overwrite it" in capsys.readouterr().err


def test_a_step_on_kept_embeddings_is_one_on_embeddings_made_in_it(dit_config):
    config = replace(dit_config, train_text_encoder=False, precision="fp32")
    losses = {}
    for kept in (True, False):
        task = build_dit(replace(config, cache_text=kept))
        task.prepare()
        with torch.no_grad():  # a fresh transformer does not look at the text yet
            for parameter in task.model["transformer"].parameters():
                parameter.add_(0.05)
        called = []
        if "text_encoder" in task.model:  # kept embeddings need none
            encoder = task.model["text_encoder"]
            encoder.register_forward_hook(lambda *_, to=called: to.append(1))
        losses[kept], _ = task.loss(task.batch(3), torch.Generator().manual_seed(0))
        assert bool(called) is not kept
    torch.testing.assert_close(losses[True], losses[False], atol=1e-5, rtol=1e-5)
