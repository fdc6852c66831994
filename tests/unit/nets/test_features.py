"""Frames reach a named model as its own processor prepares them."""

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from t2v.errors import UserError
from t2v.nets.features import load_frame_net, load_video_net

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
EXACT = {"height": 32, "width": 32}
MODELS = {
    "vit": lambda: (ViTModel(ViTConfig(**SMALL)), ViTImageProcessor(size=EXACT)),
    "siglip": lambda: (
        SiglipVisionModel(SiglipVisionConfig(**SMALL)),
        SiglipImageProcessor(size=EXACT, resample=3),
    ),
    "dinov2-like": lambda: (  # resized further than it is cropped to
        ViTModel(ViTConfig(**SMALL)),
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=EXACT),
    ),
}


@pytest.fixture(scope="module")
def video():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2 * 3, 3, 12, 20, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (72, 120), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().byte().unflatten(0, (2, 3)).movedim(2, -1)  # n t h w c


def by_hand(folder, video):
    """Pixels as the processor of transformers prepares them, frame by frame."""
    processor = AutoImageProcessor.from_pretrained(folder)
    frames = [processor(frame, return_tensors="pt") for frame in video.flatten(0, 1).numpy()]
    return torch.cat([each["pixel_values"] for each in frames])


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_those_of_the_model_behind_its_own_processor(kind, video, tmp_path):
    model, processor = MODELS[kind]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        state = getattr(model, "vision_model", model)(pixel_values=by_hand(tmp_path, video))
    wanted = state.last_hidden_state.mean(1).unflatten(0, (2, 3)).mean(1)
    net = load_video_net(str(tmp_path))
    torch.testing.assert_close(net.features(video).float(), wanted, atol=1e-5, rtol=0)
    assert "prepared by " in net.name
    assert load_frame_net(str(tmp_path)).maps(video)[-1].shape == (2, 3, 16, 4, 4)


def test_a_folder_that_does_not_say_how_frames_are_prepared_is_refused(tmp_path):
    ViTModel(ViTConfig(**SMALL)).save_pretrained(tmp_path)
    for load in (load_video_net, load_frame_net):
        with pytest.raises(UserError, match="cannot be loaded") as error:
            load(str(tmp_path))
        assert "image processor" in str(error.value) or "preprocessor" in str(error.value)
