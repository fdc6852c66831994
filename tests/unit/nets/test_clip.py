"""A CLIP sees frames behind its own processor, and matches texts with them."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    CLIPModel,
    VideoMAEImageProcessor,
    XCLIPConfig,
    XCLIPModel,
    XCLIPProcessor,
)

from t2v.config.captions import CaptionConfig
from t2v.curation.text.caption import caption
from t2v.errors import UserError
from t2v.io.manifest import Clip
from t2v.io.video import write_video
from t2v.nets.clip import ClipModel
from t2v.nets.matcher import matcher

TEXTS = ["a red ball", "the blue box on the grass"]


@pytest.fixture
def frames() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (24, 40, 3), dtype=np.uint8) for _ in range(3)]


def test_frames_are_embedded_behind_the_models_own_processor(clip_folder, frames):
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor = AutoImageProcessor.from_pretrained(clip_folder)
    prepared = [processor(frame, return_tensors="pt")["pixel_values"] for frame in frames]
    with torch.no_grad():
        found = model.get_image_features(pixel_values=torch.cat(prepared))
    found = getattr(found, "pooler_output", found)
    wanted = torch.nn.functional.normalize(found, dim=-1)[None]
    video = torch.from_numpy(np.stack(frames))[None]
    torch.testing.assert_close(ClipModel(clip_folder).embed_video(video), wanted, atol=1e-5, rtol=0)


def test_a_match_is_the_mean_cosine_over_frames_and_the_same_for_both_users(clip_folder, frames):
    model = ClipModel(clip_folder)
    whole = model.match(frames, TEXTS)
    single = [model.match([frame], TEXTS) for frame in frames]
    np.testing.assert_allclose(whole, np.mean(single, axis=0), atol=1e-5)
    video = torch.from_numpy(np.stack(frames))[None]
    embedded = (model.embed_text(TEXTS) @ model.embed_video(video)[0].mT).mean(1)
    np.testing.assert_allclose(whole, embedded.tolist(), atol=1e-6)
    assert all(-1 <= score <= 1 for score in whole)
    assert abs(whole[0] - whole[1]) > 1e-4
    assert len(model.match(frames, ["a red ball " * 20])) == 1


def test_the_scorer_chooses_the_caption_and_refuses_what_does_not_match(
    clip_folder, frames, tmp_path
):
    write_video(tmp_path / "x.mp4", np.repeat(np.stack(frames), 4, axis=0), 4)
    clip = Clip(path=str(tmp_path / "x.mp4"), end=3.0, width=40, height=24)
    (tmp_path / "x.txt").write_text("a red ball\nthe blue box on the grass\na ball")
    done = caption(clip, CaptionConfig(authors=("sidecar",), scorer=clip_folder))
    scores = [row["score"] for row in done.extra["candidates"]]
    assert done.caption == done.extra["candidates"][scores.index(max(scores))]["text"]
    assert done.scores["caption_match"] == max(scores)
    strict = CaptionConfig(authors=("sidecar",), scorer=clip_folder, min_match=max(scores) + 0.01)
    assert "matches the pictures by" in caption(clip, strict).reason


@pytest.fixture
def xclip_folder(tokenizer, tmp_path) -> str:
    """An X-CLIP of random weights that takes 4 frames of 32 x 32."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = sizes | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 8, "num_frames": 4, "mit_hidden_size": 16,
                      "mit_intermediate_size": 32, "mit_num_attention_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    config = XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=16, prompt_num_attention_heads=2
    )
    tokenizer.model_max_length = 16
    images = VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    XCLIPModel(config).save_pretrained(tmp_path / "xclip")
    XCLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(tmp_path / "xclip")
    return str(tmp_path / "xclip")


def test_a_model_of_videos_gives_one_vector_a_video_and_scores_no_frames(xclip_folder):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 6, 24, 40, 3), generator=generator, dtype=torch.uint8)
    embedded = ClipModel(xclip_folder).embed_video(video)
    assert embedded.shape == (2, 1, 16)
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(2, 1))
    with pytest.raises(UserError, match="compares whole videos"):
        matcher(xclip_folder, "cpu")


def test_what_is_no_model_is_named_by_its_setting(tmp_path):
    with pytest.raises(UserError, match=r"scorer=.*cannot be loaded"):
        matcher(str(tmp_path / "nothing"), "cpu")
    with pytest.raises(UserError, match=r"clip=.*cannot be loaded"):
        ClipModel(str(tmp_path / "nothing"))
