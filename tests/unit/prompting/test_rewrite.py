"""Prompts written anew: taken only with all that was asked for, else the first one stays."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from t2v.config.prompting import PromptingConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io import chat
from t2v.prompting.rewrite import Rewriter, fault
from t2v.sampling.wording import Wording, rewritten, wordings

PROMPT = "a red ball rolls on the grass"


@pytest.fixture
def writer(monkeypatch):
    """An endpoint that gives what `answer` holds, and keeps what it was told."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.told.append(told["messages"][0]["content"])
            self.send_response(server.status)
            self.end_headers()
            message = {"choices": [{"message": {"content": server.answer}}]}
            self.wfile.write(json.dumps(message).encode())

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(chat, "FIRST_WAIT", 0.01)
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.told, server.status, server.answer = [], 200, ""
        server.place = f"http://127.0.0.1:{server.server_port}/v1#m"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_rewriting_with_every_content_word_is_taken_and_both_are_kept(writer):
    writer.answer = '"A shiny red ball\nis rolling slowly (left: 2) over green grass."'
    config = SampleConfig(prompting=PromptingConfig(rewrite=writer.place, syntax=True))
    (made,) = rewritten(config.prompting, wordings(config, [PROMPT]))
    assert made.written == PROMPT
    assert made.prompt == r"A shiny red ball is rolling slowly \(left\: 2\) over green grass."
    assert writer.told == [f"{config.prompting.instruction}\n\n{PROMPT}"]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ("a blue ball rolls on the grass", 200, "loses red"),
        ("", 200, "is empty"),
        (f"{PROMPT} {'and on ' * 1000}", 200, "4,000 are taken"),
        (PROMPT, 500, "no rewriting (HTTP 500"),
    ],
)
def test_another_one_is_left_and_that_is_said(writer, caplog, answer, status, words):
    writer.answer, writer.status = answer, status
    config = SampleConfig(prompting=PromptingConfig(rewrite=writer.place, retries=0))
    assert rewritten(config.prompting, wordings(config, [PROMPT])) == [Wording(PROMPT, 0)]
    assert "stays as it is" in caplog.text and words in caplog.text


def test_an_endpoint_that_cannot_be_used_ends_the_command(writer):
    writer.status = 401
    config = PromptingConfig(rewrite=writer.place)
    with pytest.raises(UserError, match=r"prompting\.rewrite: .*HTTP 401.*OPENAI_API_KEY"):
        Rewriter.of(config).rewrite(PROMPT)


def test_a_model_of_transformers_writes_too(tokenizer, tmp_path, caplog):
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = PromptingConfig(
        rewrite=f"model:{tmp_path}", max_new_tokens=4, instruction="a red ball"
    )
    caplog.set_level(logging.INFO)
    assert Rewriter.of(settings).rewrite(PROMPT) == PROMPT  # it was never trained
    assert "stays as it is: its rewriting" in caplog.text
    long = PromptingConfig(rewrite=f"model:{tmp_path}", max_new_tokens=60)
    assert Rewriter.of(long).rewrite(PROMPT) == PROMPT and "64 fit" in caplog.text
    with pytest.raises(UserError, match=r"prompting\.rewrite=model:"):
        Rewriter.of(PromptingConfig(rewrite=f"model:{tmp_path}/none"))


def test_what_a_model_of_transformers_has_learned_to_write_is_taken(tokenizer, tmp_path):
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, eos_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model, answer = GPT2LMHeadModel(config), f"{PROMPT} on the snow"
    given = tokenizer(f"a\n\n{PROMPT}\n\n", return_tensors="pt").input_ids
    ids = torch.cat([given, tokenizer(answer, return_tensors="pt").input_ids], 1)
    labels = ids.clone()
    labels[:, : given.shape[1]] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = PromptingConfig(rewrite=f"model:{tmp_path}", instruction="a", max_new_tokens=16)
    assert Rewriter.of(settings).rewrite(PROMPT) == answer


def test_words_survive_with_other_endings():
    assert not fault("a red cube bounces", "One cube is bouncing, red.")
    assert fault("a cube bounces", "A cube rests.").startswith("loses bounc")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rewrite": "gpt"}, "allowed are"),
        ({"rewrite": "model:"}, "allowed are"),
        ({"rewrite": "https://me:secret@host/v1#m"}, "a user or password"),
        ({"keep": 5}, "prompting.long=compress"),
        ({"keep": 0, "long": "compress"}, "keep=0"),
        ({"templates": "all"}, "prompting.syntax=true"),
        ({"rewrite": "https://h/v1#m", "timeout": 0.0}, "more than 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings, words):
    with pytest.raises(UserError, match=words) as caught:
        PromptingConfig(**settings)
    assert "secret" not in str(caught.value)


def test_signs_and_a_rewriting_are_refused_before_it_is_asked_for():
    config = SampleConfig(prompting=PromptingConfig(rewrite="https://h/v1#m", syntax=True))
    with pytest.raises(UserError, match="do not outlive"):
        wordings(config, ["a (red:2) ball"])


def test_each_video_has_the_alternative_of_its_seed():
    signs = PromptingConfig(syntax=True)
    config = SampleConfig(prompting=signs, num_videos_per_prompt=8, seed=3)
    made = wordings(config, ["a {red|blue} ball"])
    assert [each.seed for each in made] == [*range(3, 11)]
    assert {each.prompt for each in made} == {"a red ball", "a blue ball"}
    (fourth,) = wordings(SampleConfig(prompting=signs, seed=6), ["a {red|blue} ball"])
    assert fourth == made[3] and fourth.written == "a {red|blue} ball"
    every = SampleConfig(prompting=PromptingConfig(syntax=True, templates="all"))
    assert [each.prompt for each in wordings(every, ["a {red|blue} ball"])] == [
        "a red ball",
        "a blue ball",
    ]
    assert wordings(SampleConfig(), ["{a|b}"]) == [Wording("{a|b}", 0)]
