"""Tiny models of transformers caption frames and videos, from a folder."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from t2v.config.captions import CaptionConfig
from t2v.curation.text.caption import caption
from t2v.errors import UserError
from t2v.io.manifest import Clip
from t2v.io.video import write_video
from t2v.nets.captioner import Captioner

WORDS = re.findall(
    r"\S+", "a dog cat runs sits on the wet green meadow sofa describe this : user assistant"
)
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
TOWER |= {"num_attention_heads": 2}
VISION = TOWER | {"image_size": 16, "patch_size": 8}
CHAT = (
    "{% for message in messages %}user : {% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video> {% elif part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}assistant :"
)


def words(*more: str) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<unk>", "<s>", "</s>", *more]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not more:
        marks = [("<s>", 2), ("</s>", 3)]
        model.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", model_max_length=12, additional_special_tokens=list(more),
    )  # fmt: skip
    return tokenizer


def awake(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        noise = 0.5 * torch.randn(parameter.shape, generator=generator)
        # replaces the random initialisation: the words must be the same in every run
        parameter.data = noise if parameter.ndim > 1 else parameter.data + noise
    return model.eval()


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("blip")
    text = TOWER | {"vocab_size": len(WORDS) + 4, "encoder_hidden_size": 16, "bos_token_id": 2}
    text |= {"eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 32}
    config = BlipConfig(text_config=text, vision_config=VISION)
    awake(BlipForConditionalGeneration(config)).save_pretrained(folder)
    image = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(image, words()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = words("<image>")
    config = LlavaConfig(
        text_config=Qwen2Config(
            **TOWER, num_key_value_heads=2, vocab_size=len(tokenizer), bos_token_id=2,
            eos_token_id=3, pad_token_id=0,
        ),
        vision_config=CLIPVisionConfig(**VISION), image_token_id=4, vision_feature_layer=-1,
    )  # fmt: skip
    awake(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    image = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        image,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def onevision(tmp_path_factory) -> str:
    pytest.importorskip("torchvision", reason="transformers reads videos with torchvision")
    folder = tmp_path_factory.mktemp("onevision")
    tokenizer = words("<image>", "<video>")
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(
            **TOWER, num_key_value_heads=2, vocab_size=len(tokenizer), bos_token_id=2,
            eos_token_id=3, pad_token_id=0,
        ),
        vision_config=SiglipVisionConfig(**VISION),
        image_token_index=4, video_token_index=5, image_token_id=4, video_token_id=5,
        image_grid_pinpoints=[[16, 16]], vision_feature_layer=-1,
    )  # fmt: skip
    awake(LlavaOnevisionForConditionalGeneration(config)).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[16, 16]]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        num_image_tokens=4,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def git(tmp_path_factory) -> str:
    """A GIT of videos, which looks at three frames."""
    folder = tmp_path_factory.mktemp("git")
    text = TOWER | {"vocab_size": len(WORDS) + 4, "bos_token_id": 2, "eos_token_id": 3}
    config = GitConfig(vision_config=VISION, **text, num_image_with_embedding=3, pad_token_id=0)
    awake(GitForCausalLM(config)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    GitProcessor(CLIPImageProcessor(**sizes), words()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def frames() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (24, 32, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture
def clip(frames, tmp_path) -> Clip:
    path = tmp_path / "x.mp4"
    write_video(path, np.repeat(np.stack(frames), 4, axis=0), 4)
    return Clip(path=str(path), end=3.0, width=32, height=24)


def test_a_model_without_chat_says_something_of_each_frame(blip, clip):
    config = CaptionConfig(authors=(f"model:{blip}",), frames=3, max_new_tokens=6)
    rows = caption(clip, config).extra["candidates"]
    assert [row["author"] for row in rows] == [f"model:{blip} @ {time} s" for time in (0, 1, 2)]
    said = [word for row in rows for word in row["text"].split()]
    assert said and set(said) <= set(WORDS)
    assert len({row["text"] for row in rows}) > 1


def test_a_video_model_with_chat_is_shown_a_video(onevision, frames):
    model = Captioner(onevision, "cpu")
    assert model.takes_video
    [said] = model.describe(frames, "describe this", 6)
    assert 0 < len(said.split()) <= 6
    assert set(said.split()) <= set(WORDS)
    assert model.describe(frames, "describe this", 6) == [said]
    inputs = []
    hook = model.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.extend([*args, *kwargs.values()]), with_kwargs=True
    )
    model.describe(frames, "describe this", 1)
    hook.remove()
    assert inputs[0].shape == (3, 3, 16, 16)


def test_a_model_of_videos_without_chat_says_one_thing_of_the_frames_it_is_made_for(git, clip):
    name = f"model:{git}"
    done = caption(clip, CaptionConfig(authors=(name,), frames=1, max_new_tokens=4))
    [row] = done.extra["candidates"]
    assert row["author"] == name and 0 < len(row["text"].split()) <= 4
    captioner, seen = Captioner(git, "cpu"), []
    captioner.model.git.image_encoder.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    frame = np.zeros((24, 32, 3), np.uint8)
    captioner.describe([frame, frame + 99], "", 1)
    shown = torch.cat(seen)
    assert shown.shape == (3, 3, 16, 16)  # in time, one of two repeated
    assert len({each.mean().item() for each in shown}) == 2


def test_an_image_model_with_chat_is_shown_every_frame_and_adds_to_no_prompt(llava, frames):
    model = Captioner(llava, "cpu")
    assert model.takes_chat and not model.takes_video
    inputs = []
    hook = model.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.extend([*args, *kwargs.values()]), with_kwargs=True
    )
    [said] = model.describe(frames, "describe this", 6)
    hook.remove()
    assert inputs[0].shape == (3, 3, 16, 16)
    assert 0 < len(said.split()) <= 6
    assert set(said.split()) <= set(WORDS)
    assert model.describe(frames, "describe this", 6) == [said]


def test_a_model_that_fails_on_a_clip_is_to_be_asked_again_and_others_are_heard(blip, clip):
    name = f"model:{blip}"
    said = replace(clip, captions=("a dog runs",))
    done = caption(said, CaptionConfig(authors=(name, "table"), max_new_tokens=100))
    assert done.extra["unanswered"] == [name]
    assert done.extra["candidates"][0]["verdict"].startswith("no answer: ")
    assert (done.caption, done.dropped) == ("a dog runs", "")


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model:.*nothing: cannot be loaded"):
        Captioner(str(tmp_path / "nothing"), "cpu")
