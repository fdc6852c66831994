"""Reference pictures: tokens before the first frame that no frame of the video shows."""

import numpy as np
import pytest
import torch

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.known import reference_position
from t2v.pipelines.visuals import VideoCondition, spoken

SIZE = {"height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture
def reference_pipe(pipe):
    pipe.transformer.take_known(picture_tokens=True, references=2)
    with torch.no_grad():
        pipe.transformer.proj_out.weight.normal_(
            std=0.05, generator=torch.Generator().manual_seed(2)
        )
    return pipe


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def latents_of(pipe, prompt="a red ball", **given) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, output_type="latent", **{**SIZE, **given}).frames


def test_a_reference_changes_the_video_and_is_no_frame_of_it(reference_pipe):
    text = latents_of(reference_pipe)
    one = latents_of(reference_pipe, reference_images=[picture(0)])
    other = latents_of(reference_pipe, reference_images=[picture(1)])
    assert one.shape == text.shape
    assert not torch.allclose(one, text, atol=1e-4) and not torch.allclose(one, other, atol=1e-4)
    assert torch.equal(latents_of(reference_pipe, reference_images=[]), text)
    two = latents_of(reference_pipe, reference_images=[picture(0), picture(1)])
    turned = latents_of(reference_pipe, reference_images=[picture(1), picture(0)])
    assert not torch.allclose(two, turned, atol=1e-5)  # their order says which is which


def test_references_stand_before_the_video_and_before_other_pictures(reference_pipe, monkeypatch):
    seen: list[Conditions] = []
    generate = type(reference_pipe).generate

    def noted(self, positive, *rest, **more):
        seen.append(positive)
        return generate(self, positive, *rest, **more)

    monkeypatch.setattr(type(reference_pipe), "generate", noted)
    film = np.stack([picture(n) for n in range(9)])
    made = latents_of(
        reference_pipe,
        image=film[0],
        conditions=[VideoCondition(film[8], -1)],
        reference_images=[picture(20, 32, 16), picture(21)],
    )
    (conditions,) = seen
    assert conditions.picture_positions.tolist() == [[-4.0, -8.0, 2.375]]
    assert [reference_position(n) for n in range(2)] == [-4.0, -8.0]
    assert conditions.pictures.shape[2] == 3 and conditions.known_mask[0, 0, 0].eq(1).all()
    assert torch.allclose(made[:, :, :1], conditions.known[:, :, :1], atol=1e-5)


def test_a_prompt_may_say_where_the_pictures_belong(reference_pipe):
    given = {"reference_images": [picture(0)]}
    signed = latents_of(reference_pipe, "<image> rolls", **given)
    assert torch.equal(signed, latents_of(reference_pipe, "it rolls", **given))
    assert spoken("<image> rolls and <image> spins", 2) == "it rolls and it spins"
    assert spoken("a ball", 2) == "a ball"
    for prompt, count in (("<image> rolls", 0), ("<image> and <image>", 1), ("<image>", 2)):
        with pytest.raises(UserError, match="once for each picture"):
            spoken(prompt, count)
    with pytest.raises(UserError, match=r"reference_images 0 pictures"):
        reference_pipe(["it rolls", "<image> rolls"], **SIZE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reference_images": [picture(0)] * 3}, "3 given, and this .* takes 2. Give fewer"),
        ({"reference_images": [np.stack([picture(0)] * 2)]}, r"\[0\] has 2 frames. Give one"),
        ({"reference_images": picture(0)}, "is ndarray: give a list of pictures"),
        ({"reference_images": ["x.png"]}, r"reference_images\[0\] is str: give PIL images"),
    ],
)
def test_what_is_no_reference_is_one_message(reference_pipe, given, message):
    with pytest.raises(UserError, match=message):
        latents_of(reference_pipe, **given)


def test_a_model_that_learned_no_references_says_so(pipe):
    with pytest.raises(UserError, match=r"reference_images: 1 given, .* trained with none"):
        latents_of(pipe, reference_images=[picture(0)])
    pipe.transformer.take_known(picture_tokens=True)
    with pytest.raises(UserError, match=r"trained with none\. Leave them out"):
        latents_of(pipe, reference_images=[picture(0)])
