"""Clips, captions and latents of a folder: read whole or refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2v.data.captions import Captions
from t2v.data.latents import encode_folder
from t2v.data.world_shards import load_clips, pixels, read_rows, train_count
from t2v.errors import UserError


def test_clips_come_in_the_order_of_the_manifest(clips):
    loaded = load_clips(clips)
    shards = [load_file(clips / f"clips-{n:05d}.safetensors") for n in range(2)]
    assert torch.equal(loaded.video, torch.cat([shard["video"] for shard in shards]))
    assert torch.equal(loaded.mask, torch.cat([shard["mask"] for shard in shards]))
    assert len(loaded[3:5]) == 2


def test_pixels_span_minus_one_to_one_and_stay_channels_last(clips):
    video = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 2, 4, 4, 2)
    assert pixels(video).unique().tolist() == [-1, 1]
    x = pixels(load_clips(clips).video)
    assert x.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_unfinished_folder_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.jsonl.*t2v world"):
        load_clips(tmp_path)


def test_a_missing_or_short_shard_is_named(clips):
    shard = clips / "clips-00001.safetensors"
    save_file({name: t[:4].clone() for name, t in load_file(shard).items()}, shard)
    with pytest.raises(UserError, match=r"clips-00001\.safetensors does not hold the 6 clips"):
        load_clips(clips)
    shard.unlink()
    with pytest.raises(UserError, match=r"clips-00001\.safetensors does not hold the 6 clips"):
        load_clips(clips)


@pytest.mark.parametrize("held_out", [0, 12, 256])
def test_held_out_must_leave_two_parts(held_out):
    with pytest.raises(UserError, match=f"held_out={held_out} of 12 clips.*Allowed: 1 to 11"):
        train_count(12, held_out)


def test_a_paraphrase_is_picked_and_dropped_as_asked(clips, tokenizer):
    captions = Captions(read_rows(clips), tokenizer, max_length=12)
    index = torch.tensor([0, 1, 2])
    tokens, lengths = captions.pick(
        index, torch.tensor([0.0, 0.99, 0.99]), torch.tensor([False, False, True])
    )
    words = [tokenizer.decode(row[:n]) for row, n in zip(tokens, lengths, strict=True)]
    assert words == ["a red ball rolls on the grass </s>", "the blue ball </s>", "</s>"]
    assert tokens.shape == (3, lengths.max())
    assert (tokens[2, 1:] == tokenizer.pad_token_id).all()
    first, lengths = captions.first(index[1:2])
    assert tokenizer.decode(first[0]) == "a blue ball rolls on the grass </s>"


def test_a_caption_that_does_not_fit_is_shown(clips, tokenizer):
    with pytest.raises(UserError, match=r"8 tokens, max_sequence_length is 4.*'a red ball rolls"):
        Captions(read_rows(clips), tokenizer, max_length=4)


def test_latents_are_the_posterior_means_and_are_cached(clips, vae):
    latents = encode_folder(vae, clips, "fp32")
    with torch.no_grad():
        means = vae.encode(pixels(load_clips(clips).video)).latent_dist.mean
    torch.testing.assert_close(latents.float(), means, atol=2e-3, rtol=2e-3)
    (cached,) = clips.glob("latents-*.safetensors")
    before = cached.stat().st_mtime_ns
    assert torch.equal(encode_folder(vae, clips, "fp32"), latents)
    assert cached.stat().st_mtime_ns == before


def test_other_weights_or_other_clips_never_serve_stale_latents(clips, vae):
    encode_folder(vae, clips, "fp32")
    with torch.no_grad():
        next(vae.parameters()).add_(0.1)
    encode_folder(vae, clips, "fp32")
    rows = read_rows(clips)
    rows[0]["caption"] = "another"
    (clips / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode_folder(vae, clips, "fp32")
    assert len(list(clips.glob("latents-*.safetensors"))) == 3


def test_latents_that_are_not_finite_are_refused_and_not_kept(clips, vae):
    with torch.no_grad():
        next(vae.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"Clip 0 of .* not finite"):
        encode_folder(vae, clips, "fp32")
    assert not list(clips.glob("latents-*"))


def test_latents_of_a_shard_survive_a_stop_and_the_rest_is_encoded(clips, vae, monkeypatch):
    whole = encode_folder(vae, clips, "fp32")
    (kept,) = clips.glob("latents-*")
    kept.unlink()
    encode, seen = vae.encode, []

    def stopped(video):
        seen.append(len(video))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return encode(video)

    monkeypatch.setattr(vae, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode_folder(vae, clips, "fp32")
    assert torch.equal(encode_folder(vae, clips, "fp32"), whole)
    assert seen == [6, 6, 6]  # the first shard once, the second twice
    assert list(clips.glob("latents-*")) == [kept]
