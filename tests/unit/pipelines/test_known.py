"""Pictures, clips and masks as conditions of a whole pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image

from t2v.errors import UserError
from t2v.pipelines.visuals import VideoCondition, VisualInputs, fit_frames, frames_tensor

SIZE = {"height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture
def known_pipe(pipe):
    pipe.transformer.take_known(picture_tokens=True)
    with torch.no_grad():
        pipe.transformer.proj_out.weight.normal_(
            std=0.05, generator=torch.Generator().manual_seed(2)
        )
    return pipe


def film(frames: int, height: int = 16, width: int = 16) -> np.ndarray:
    generator = np.random.default_rng(frames)
    return generator.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def latents_of(pipe, **given) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a red ball", generator=generator, output_type="latent", **{**SIZE, **given}).frames


def encoded(pipe, frames: np.ndarray) -> torch.Tensor:
    from t2v.models.latents import normalize_latents

    video = frames_tensor(frames, "video").movedim(0, 1)[None] * 2 - 1
    return normalize_latents(pipe.vae.encode(video).latent_dist.mode(), pipe.vae.config)


def test_nothing_given_is_text_to_video_to_the_bit(pipe):
    before = latents_of(pipe)
    pipe.transformer.take_known(picture_tokens=True)
    assert torch.equal(latents_of(pipe), before)
    assert torch.equal(latents_of(pipe, conditions=[], image=None), before)


def test_known_frames_come_out_as_the_vae_has_them(known_pipe):
    text, clip = latents_of(known_pipe), film(9)
    image = latents_of(known_pipe, image=clip[0])
    assert torch.allclose(image[:, :, :1], encoded(known_pipe, clip[:1]), atol=1e-5)
    assert not torch.allclose(image[:, :, 1:], text[:, :, 1:], atol=1e-3)
    longer = latents_of(known_pipe, video=clip[:5])
    assert torch.allclose(longer[:, :, :2], encoded(known_pipe, clip[:5]), atol=1e-5)
    assert longer.shape == text.shape


def test_a_last_picture_is_a_token_of_its_own_and_changes_the_video(known_pipe):
    clip = film(9)
    first = latents_of(known_pipe, image=clip[0])
    kept = {}
    both = latents_of(
        known_pipe,
        image=clip[0],
        last_image=clip[8],
        callback_on_step_end=lambda _, step, __, tensors: kept.update({step: tensors["latents"]}),
    )
    assert torch.equal(kept[1], both)  # what a stopped run keeps after its last step is finished
    assert both.shape == first.shape and torch.equal(both[:, :, 0], first[:, :, 0])
    assert not torch.allclose(both[:, :, 1:], first[:, :, 1:], atol=1e-4)
    at_the_end = latents_of(
        known_pipe, conditions=[VideoCondition(clip[0]), VideoCondition(clip[8], -1)]
    )
    assert torch.equal(at_the_end, both)


def test_a_clip_at_the_end_is_known_where_its_frames_fill_latents(known_pipe):
    clip = film(9)
    made = latents_of(known_pipe, conditions=[VideoCondition(clip[5:], 5)])
    others = latents_of(known_pipe)
    assert not torch.allclose(made[:, :, :2], others[:, :, :2], atol=1e-3)
    again = latents_of(known_pipe, conditions=[VideoCondition(clip[5:], -4)])
    assert torch.equal(made, again)


def test_a_mask_keeps_black_and_makes_white_anew(known_pipe):
    clip, mask = film(9, width=32), np.zeros((16, 32, 3), np.uint8)
    mask[:, 16:] = 255
    made = latents_of(known_pipe, video=clip, mask=mask, width=32)
    whole = encoded(known_pipe, clip)
    half = whole.shape[-1] // 2
    assert torch.allclose(made[..., :half], whole[..., :half], atol=1e-5)
    assert not torch.allclose(made[..., half:], whole[..., half:], atol=1e-2)


def test_an_edit_starts_from_the_clip_at_its_strength(pipe):
    clip = film(9)
    source = encoded(pipe, clip).detach()
    distance = [
        float((latents_of(pipe, video=clip, strength=s, num_inference_steps=8) - source).std())
        for s in (0.05, 0.5, 1.0)
    ]
    assert distance[0] < distance[1] < distance[2]
    assert torch.equal(latents_of(pipe, video=clip, strength=1.0), latents_of(pipe))


def test_a_video_with_a_mask_or_strength_is_as_long_as_the_clip(known_pipe):
    made = known_pipe(
        "a red ball", height=16, width=16, num_inference_steps=1, video=film(6), strength=0.5
    )
    assert made.frames.shape[:2] == (1, 6)


def test_two_conditions_guide_as_emu_video_says(known_pipe):
    clip = film(9)
    plain = latents_of(known_pipe, image=clip[0], guidance_scale=1.0)
    assert torch.allclose(
        latents_of(known_pipe, image=clip[0], guidance_scale=1.0, image_guidance_scale=1.0), plain
    )
    text = latents_of(known_pipe, guidance_scale=1.0, prompt_embeds=None)
    nothing = latents_of(known_pipe, image=clip[0], guidance_scale=0.0, image_guidance_scale=0.0)
    bare = known_pipe(
        "", generator=torch.Generator().manual_seed(0), output_type="latent",
        guidance_scale=1.0, **SIZE,
    ).frames  # fmt: skip
    assert torch.allclose(nothing[:, :, 1:], bare[:, :, 1:], atol=1e-5)
    assert not torch.allclose(text, bare)
    more = latents_of(known_pipe, image=clip[0], guidance_scale=1.0, image_guidance_scale=2.0)
    assert not torch.allclose(more, plain, atol=1e-4)


def test_one_frame_of_a_batch_is_what_it_is_alone(known_pipe):
    clip = film(9)
    options = {**SIZE, "image": clip[0], "output_type": "latent"}
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    both = known_pipe(["a red ball", "the blue ball"], generator=seeds, **options).frames
    alone = known_pipe("the blue ball", generator=torch.Generator().manual_seed(1), **options)
    assert torch.equal(both[1:], alone.frames)


def test_pictures_are_fitted_and_never_stretched():
    wide = torch.zeros(1, 3, 20, 60)
    wide[..., 20:40] = 1
    cropped = fit_frames(wide, 10, 10, "crop")
    assert cropped.shape == (1, 3, 10, 10) and cropped.min() > 0.9
    padded = fit_frames(wide, 30, 30, "pad")
    assert padded[..., :9, :].eq(0).all() and padded[..., 21:, :].eq(0).all()
    assert padded[..., 15, 15].eq(1).all()
    assert fit_frames(wide, 20, 60, "crop") is wide


def test_every_kind_of_frames_is_read():
    array = film(2)
    pictures = [Image.fromarray(frame) for frame in array]
    tensor = torch.from_numpy(array).movedim(-1, 1) / 255
    for frames in (pictures, array, array / 255, tensor, (tensor * 255).round().to(torch.uint8)):
        assert torch.allclose(frames_tensor(frames, "video").float(), tensor.float(), atol=1e-6)
    assert frames_tensor(Image.fromarray(array[0]).convert("L"), "image").shape == (1, 3, 16, 16)


def test_pictures_of_pillow_are_looked_at_as_files_are():
    deep = Image.fromarray(np.full((4, 6), 2**15, np.uint16))
    assert frames_tensor(deep, "image").mean() == pytest.approx(128 / 255)
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    assert frames_tensor(clear, "image").min() == 1
    clear.getexif()[0x0112] = 6  # a quarter turn
    assert frames_tensor(clear, "image").shape == (1, 3, 6, 4)


BAD = {
    "mask without video": (
        {"mask": film(1)}, "mask is given without video",
    ),
    "mask of another size": (
        {"video": film(9), "mask": film(1, 8, 8)}, "give a mask of the same size",
    ),
    "beyond the end": (
        {"conditions": [VideoCondition(film(1), 9)]}, "whose last is 8",
    ),
    "before the first": (
        {"conditions": [VideoCondition(film(1), -10)]},
        r"frame_index=-10 of a video of 9. Give -9 to 8",
    ),
    "no condition": (
        {"conditions": [(film(1), 0)]}, r"conditions\[0\] is tuple: give VideoCondition",
    ),
    "no list of conditions": (
        {"conditions": VideoCondition(film(1))}, "conditions is VideoCondition: give a list",
    ),
    "no whole place": (
        {"conditions": [VideoCondition(film(1), 1.5)]}, "frame_index=1.5 is no whole number",
    ),
    "two places": (
        {"conditions": [VideoCondition(film(1), (1, 2))]}, r"frame_index=\(1, 2\) is no whole",
    ),
    "strength of a word": (
        {"conditions": [VideoCondition(film(1), 0, "high")]}, "strength=high must be a number",
    ),
    "edit of a word": ({"video": film(9), "strength": "high"}, "strength='high': it must be"),
    "fit": ({"image": film(1), "fit": "stretch"}, "fit='stretch': give crop or pad"),
    "more than asked": ({"video": film(10)}, "frames 0 to 9 of a video of 9"),
    "all known": ({"video": film(9)}, "nothing is left to make"),
    "twice": (
        {"image": film(1), "conditions": [VideoCondition(film(2), 0)]}, "given already",
    ),
    "strength alone": ({"strength": 0.5}, "without video"),
    "strength out of range": ({"video": film(9), "strength": 1.5}, "over 0 and at most 1"),
    "strength of a condition": (
        {"conditions": [VideoCondition(film(1), 0, 0.0)]}, "over 0 and at most 1",
    ),
    "image and video": ({"image": film(1), "video": film(5)}, "both begin at frame 0"),
    "image and mask": (
        {"last_image": film(1), "video": film(9), "mask": film(1)}, "Leave one out",
    ),
    "no picture": ({"image": "x.png"}, "give PIL images"),
    "numbers": ({"image": np.full((4, 4, 3), 7.0)}, "uint8 or numbers from 0 to 1"),
    "too short for a mask": (
        {"video": film(6), "mask": film(1)}, "video has 6 frames and 9 are asked for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_one_message(known_pipe, name):
    given, words = BAD[name]
    with pytest.raises(UserError, match=words):
        latents_of(known_pipe, **given)


def test_a_model_that_takes_no_conditions_says_so(pipe):
    with pytest.raises(UserError, match="conditioning='none'"):
        latents_of(pipe, image=film(1)[0])
    with pytest.raises(UserError, match="from the first on, 4k"):
        latents_of(pipe, last_image=film(1)[0])


def test_names_of_what_is_given():
    assert VisualInputs().names() == []
    assert VisualInputs(image=film(1), mask=film(1)).names() == ["image", "mask"]
