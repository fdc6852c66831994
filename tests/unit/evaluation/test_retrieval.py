"""The film that a sampled video is nearest to."""

import json

import pytest
import torch

from t2v.config.data import ClipsConfig
from t2v.config.evaluation import FootageEvalConfig
from t2v.errors import UserError
from t2v.evaluation.retrieval import evaluate, nearest
from t2v.pipelines.t2v import T2VPipeline

CLIPS = ClipsConfig(workers=1, aspects=("3:2",), resolution=40, num_frames=5)


@pytest.fixture
def config(pipe, media, tmp_path):
    """Two windows of each of four films; the second ones of two films are held out."""
    pipe.register_to_config(num_frames=5)
    pipe.save_pretrained(tmp_path / "model")
    rows = [
        {"path": f"{film}.mp4", "start": start, "end": start + 0.7, "caption": f"the {word} ball"}
        | ({"split": "held_out"} if start and film < 2 else {})
        for film, word in enumerate(("red", "blue", "grass", "snow"))
        for start in (0.0, 0.75)
    ]
    manifest = media / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FootageEvalConfig(
        model=str(tmp_path / "model"), data=str(manifest), clips=CLIPS, draws=3,
        output=str(tmp_path / "eval"),
    )  # fmt: skip


def test_the_nearest_clip_is_found_and_hidden_ones_do_not_count():
    clips = torch.randn(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4])
    assert torch.equal(nearest(clips[order] + 0.01, clips), order)
    hidden = torch.eye(5, dtype=torch.bool)[order]
    assert not (nearest(clips[order], clips, hidden) == order).any()


def test_every_held_out_caption_is_sampled_and_the_report_adds_up(config, tmp_path):
    text = evaluate(config)
    report = json.loads((tmp_path / "eval" / "likeness.json").read_text())
    assert report["rows"]["model"]["n"] == len(report["details"]) == 2 * 3
    assert report["rows"]["held-out clips"]["n"] == 2
    assert report["chance"] == 2 / 8
    right = [each["film"] == each["nearest"] for each in report["details"]]
    assert report["rows"]["model"]["share"] == sum(right) / 6
    assert {each["caption"] for each in report["details"]} == {"the red ball", "the blue ball"}
    assert "| chance | 25.0 |" in text
    assert {path.suffix for path in (tmp_path / "eval").iterdir()} == {
        ".json", ".md", ".png", ".yaml",
    }  # fmt: skip


def test_clips_of_another_size_than_the_models_are_refused(config):
    pipe = T2VPipeline.from_pretrained(config.model)
    pipe.register_to_config(width=64)
    pipe.save_pretrained(config.model)
    with pytest.raises(UserError, match="The model samples latents of"):
        evaluate(config)
