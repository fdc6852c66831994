"""What a captioner says is held beside the prompt."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from t2v.config.evaluation import EvalConfig
from t2v.errors import UserError
from t2v.evaluation.metrics import caption_back
from t2v.evaluation.metrics.caption_back import shared_words
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import NotRun, Videos
from t2v.pipelines.t2v_generator import T2VGenerator

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2}
WORDS = ("dog", "cat", "horse", "meadow", "sofa", "wet", "green", "sits", "gallops", "night")


def words() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = [("<s>", 2), ("</s>", 3)]
    model.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", model_max_length=12,
    )  # fmt: skip


@torch.no_grad()
def awake(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        noise = 0.5 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise if parameter.ndim > 1 else 1 + noise)
    return model.eval()


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("blip")
    text = SIZES | {"vocab_size": len(WORDS) + 4, "encoder_hidden_size": 16, "bos_token_id": 2}
    text |= {
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
        "max_position_embeddings": 256,
    }
    vision = SIZES | {"image_size": 16, "patch_size": 8}
    model = awake(BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)))
    with torch.no_grad():
        model.text_decoder.cls.predictions.decoder.bias[3] += 1  # so that it comes to an end
    model.save_pretrained(folder)
    image = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(image, words()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    awake(BertModel(BertConfig(**SIZES, vocab_size=len(WORDS) + 4))).save_pretrained(folder)
    words().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def video():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 5, 24, 32, 3), generator=generator, dtype=torch.uint8)[::2, :2]


@pytest.fixture
def load(pipe):
    """Loads what the settings name."""

    def load(captioner, sentences=None):
        config = EvalConfig(output="x", captioner=captioner, sentences=sentences)
        return caption_back.load(Networks(config, T2VGenerator(pipe)))

    return load


def test_shared_words_have_known_answers():
    prompt = "A red box is sliding on the grass"  # red, box, slid, grass
    texts = ["the boxes slides on red grass", "a blue box on snow", "two cats", ""]
    wanted = [1.0, 2 * 1 / (4 + 3), 0.0, 0.0]
    assert shared_words(prompt, texts).tolist() == pytest.approx(wanted)


def test_a_prompt_in_the_captioners_own_words_scores_one(load, captioner, video):
    describer = load(captioner)
    said = [describer.describe(each) for each in video]
    assert all(len(texts) == 2 for texts in said)  # a caption a frame, from a model without chat
    assert set(" ".join(said[0]).split()) <= set(WORDS)
    still = video[:, :1].expand_as(video)  # all frames get one caption
    prompts = tuple(texts[0] for texts in said)
    own = caption_back.measure(Videos(still, prompts, 8), describer)["similarity"]
    assert all(prompts) and own.values.tolist() == [1.0] * 2
    assert own.texts == prompts and captioner in own.method and "shared words" in own.method
    mixed = caption_back.measure(Videos(video, ("a horse at night",) * 2, 8), describer)
    wanted = [shared_words("a horse at night", texts).mean().item() for texts in said]
    assert mixed["similarity"].values.tolist() == pytest.approx(wanted)
    assert 0 < max(wanted) < 1


def test_a_model_of_sentences_gives_cosines_that_padding_does_not_change(
    load, captioner, sentences
):
    describer = load(captioner, sentences)
    prompt = "dog sits meadow"
    same, long, short = "dog sits meadow", "green wet meadow horse gallops night", "sofa"
    values = describer.similarity(prompt, [same, long, short])
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1:].max() < 0.999
    assert describer.similarity(prompt, [short]).item() == pytest.approx(values[2].item(), abs=1e-5)
    model, tokens = BertModel.from_pretrained(sentences), words()([prompt, short], padding=True)
    with torch.no_grad():
        states = [
            model(torch.tensor([[i for i in ids if i]])).last_hidden_state[0].mean(0)
            for ids in tokens.input_ids  # 0 pads
        ]
    wanted = torch.cosine_similarity(*states, dim=0).item()
    assert values[2].item() == pytest.approx(wanted, abs=1e-5)
    assert sentences in describer.name


def test_without_a_captioner_nothing_is_claimed_and_a_wrong_one_is_named(
    load, sentences, video, tmp_path
):
    found = caption_back.measure(Videos(video, ("x",) * 2, 8), load(None))
    assert isinstance(found["similarity"], NotRun)
    for name in (str(tmp_path / "nothing"), sentences):
        with pytest.raises(UserError, match=r"captioner=.*cannot be loaded"):
            load(name)
    with pytest.raises(UserError, match=r"Give captioner=MODEL"):
        EvalConfig(output="x", sentences="y")


def test_a_wrong_model_of_sentences_is_named(load, captioner, tmp_path):
    with pytest.raises(UserError, match=r"sentences=.*cannot be loaded"):
        load(captioner, str(tmp_path))
