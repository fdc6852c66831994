"""Clips, captions and latents of a folder: read whole or refused by name."""

import json
from shutil import rmtree

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2v.config.data import ClipsConfig
from t2v.data import cache
from t2v.data.captions import Captions
from t2v.data.dataset import load_latents, train_count
from t2v.data.latents import latents_name
from t2v.data.world_shards import load_clips, pixels, read_rendered
from t2v.errors import UserError


def rows_of(folder):
    return [{"captions": clip.captions} for clip in read_rendered(folder)]


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
    captions = Captions(rows_of(clips), tokenizer, max_length=12)
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
        Captions(rows_of(clips), tokenizer, max_length=4)


@pytest.fixture
def load(vae, tokenizer):
    """The latents of a folder of rendered clips, in the order of its manifest."""

    def load(folder):
        data = load_latents(
            str(folder), ClipsConfig(), vae, tokenizer, precision="fp32", max_length=12,
            batch_size=2, held_out=3, seed=0,
        )  # fmt: skip
        return torch.stack([data.tensors[number] for number in range(len(data.items))]), data

    return load


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_latents_are_the_posterior_means_and_are_cached(clips, load, vae):
    latents, _ = load(clips)
    with torch.no_grad():
        means = vae.encode(pixels(load_clips(clips).video)).latent_dist.mean
    torch.testing.assert_close(latents.float(), means, atol=2e-3, rtol=2e-3)
    before = files_of(clips)
    assert torch.equal(load(clips)[0], latents)
    assert files_of(clips) == before


def test_the_one_file_of_earlier_versions_is_read_and_nothing_is_encoded(clips, load, vae):
    latents, data = load(clips)
    rmtree(clips / "latents")
    name = latents_name(vae, clips / "manifest.jsonl", "fp32")
    assert data.sources == {"latents": name}
    save_file({"latents": latents + 1}, clips / name)
    for shard in clips.glob("clips-*"):
        shard.unlink()
    before = files_of(clips)
    again, data = load(clips)
    assert torch.equal(again, latents + 1)
    assert data.sources == {"latents": name}
    assert files_of(clips) == before


def test_other_weights_or_other_clips_never_serve_stale_latents(clips, load, vae):
    latents, data = load(clips)
    with torch.no_grad():
        next(vae.parameters()).add_(0.1)
    other, other_data = load(clips)
    assert not torch.equal(other, latents)
    lines = (clips / "manifest.jsonl").read_text().splitlines()
    (clips / "manifest.jsonl").write_text("\n".join(lines[1:]))
    fewer, fewer_data = load(clips)
    torch.testing.assert_close(fewer, other[1:], atol=2e-3, rtol=2e-3)  # in other batches
    assert len({str(each.sources) for each in (data, other_data, fewer_data)}) == 3


def test_latents_that_are_not_finite_are_refused_and_not_kept(clips, load, vae):
    with torch.no_grad():
        next(vae.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"12 clips can be used \(12 x data: not finite\)"):
        load(clips)
    assert not list(clips.rglob("latents/*.safetensors"))


def test_what_was_encoded_before_a_stop_is_kept_and_batches_are_those_of_a_whole_run(
    clips, load, vae, monkeypatch
):
    monkeypatch.setattr(cache, "TENSORS_PER_SHARD", 4)
    whole, _ = load(clips)
    rmtree(clips / "latents")
    monkeypatch.setattr(cache.Cache, "__exit__", lambda *error: None)  # a kill asks nobody
    encode, seen = vae.encode, []

    def stopped(video):
        seen.append(len(video))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return encode(video)

    monkeypatch.setattr(vae, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        load(clips)
    assert len(list(clips.glob("latents/*"))) == 1  # 4 clips of 6
    assert torch.equal(load(clips)[0], whole)
    assert seen == [6, 6, 6, 6]  # all of a shard together, for the two that were lost too


def test_the_captions_of_a_rendered_clip_weigh_as_often_as_they_are_there(clips, load):
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row["captions"] = ["a red ball", "a red ball", "the ball"]
    (clips / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, data = load(clips)
    assert {row["captions"] for row in data.rows} == {("a red ball", "a red ball", "the ball")}


def test_a_manifest_of_rendered_clips_and_media_is_refused(clips, load):
    with (clips / "manifest.jsonl").open("a") as file:
        file.write(json.dumps({"path": "film.mp4", "caption": "a ball"}) + "\n")
    with pytest.raises(UserError, match=r"clips of `t2v world` and media files.*film\.mp4"):
        load(clips)


def test_a_broken_shard_stops_the_reading_and_is_named(clips, load):
    (clips / "clips-00001.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"clips-00001\.safetensors does not hold clip 0"):
        load(clips)
