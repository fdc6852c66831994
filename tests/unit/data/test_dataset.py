"""Manifests become batches: read once, by shape, with a verdict for every clip."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors import safe_open

from t2v.config.data import ClipsConfig, CurriculumStage
from t2v.data import cache
from t2v.data.dataset import load_frames, load_latents
from t2v.data.decode import Transform, read_clip
from t2v.data.latents import frames_encoder
from t2v.data.prepare import prepare
from t2v.data.rng import step_indices
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.io.manifest import Clip, read_manifest, write_manifest

CLIPS = ClipsConfig(
    fps=8, resolution=64, num_frames=9, image_ratio=0.25, workers=1, aspects=("5:3", "3:5", "1:1")
)
TRANSFORM = Transform.of(CLIPS, ((48, 80), (80, 48), (64, 64)), (9, 5))
GIVEN = {"batch_size": 2, "held_out": 3, "seed": 0}


@pytest.fixture
def load(vae, tokenizer):
    """The latents of a manifest, with the tiny VAE and tokenizer."""

    def load(data, clips=CLIPS, **given):
        given = GIVEN | {"precision": "fp32", "max_length": 12} | given
        return load_latents(str(data), clips, vae, tokenizer, **given)

    return load


def ledger(folder):
    rows = map(json.loads, (folder / "latents" / "ledger.jsonl").read_text().splitlines())
    return {(row["path"].rsplit("/", 1)[1], row["start"]): row["reason"] for row in rows}


def test_a_folder_of_media_becomes_batches_of_one_shape(media, load, vae):
    data = load(media)
    assert [row["captions"] for row in data.rows[:2]] == [("a red ball rolls", "the red ball")] * 2
    assert data.sizes == {"fps": 8, "num_frames": 9, "height": 48, "width": 80}
    seen, images = Counter(), 0
    for step in range(40):
        batch = data.train.batch(step)
        latents = data.read(batch)
        assert latents.shape[2] == (batch.num_frames - 1) // 4 + 1
        images += batch.num_frames == 1
        seen.update(data.clips(batch).tolist())
    assert images == 10
    assert set(seen) == set(range(9))  # the last three are held out
    held = [int(clip) for batch in data.held_out for clip in data.clips(batch)]
    assert sorted(held) == [9, 10, 11]
    # a batch of training is known to fit the memory
    assert max(len(batch.indices) for batch in data.held_out) == GIVEN["batch_size"]
    video = torch.from_numpy(read_clip(Clip(path=data.rows[0]["path"]), TRANSFORM))
    with torch.no_grad():
        whole = vae.encode(pixels(video[None])).latent_dist.mean[0]
    first = next(number for number, item in enumerate(data.items) if item.clip == 0)
    torch.testing.assert_close(data.tensors[first].float(), whole, atol=2e-3, rtol=2e-3)


def test_latents_of_a_cut_clip_are_the_first_of_the_whole_one(media, vae):
    video = torch.from_numpy(read_clip(Clip(path=str(media / "0.mp4")), TRANSFORM))[None]
    with torch.no_grad():
        whole = vae.encode(pixels(video)).latent_dist.mean
        for frames in (1, 5):
            cut = vae.encode(pixels(video[:, :frames])).latent_dist.mean
            torch.testing.assert_close(cut, whole[:, :, : cut.shape[2]], atol=1e-5, rtol=1e-5)


def test_what_cannot_be_used_is_left_out_with_its_reason_and_the_rest_goes_on(awkward, load):
    data = load(awkward, replace(CLIPS, image_ratio=0.0), held_out=1)
    names = {row["path"].rsplit("/", 1)[1] for row in data.rows}
    assert names == {"0.mp4", "1.mp4", "turned.mp4", "variable.mp4", "ten_bit.mp4"}
    told = ledger(awkward)
    assert len(told) == 14
    for name, words in {
        "truncated": "not a video", "random": "not a video", "empty": "empty file",
        "text": "not a video", "sound": "no video stream", "single": "image: one frame",
        "small": "16x16 would be enlarged", "slow": "2 frames/s are too few for 8",
        "gone": "no file", "2": "no caption", "3": "28 tokens, 12 fit", "4": "sha256",
    }.items():  # fmt: skip
        assert words in told[(f"{name}.mp4", 0.0)], name
    assert told[("5.mp4", 0.0)] == "it stands still"
    assert "the file ends at 1.5 s" in told[("5.mp4", 9.0)]


def test_unusual_footage_comes_out_upright_and_at_its_true_speed(awkward):
    assert read_clip(Clip(path=str(awkward / "turned.mp4")), TRANSFORM).shape == (9, 48, 80, 3)
    ten = read_clip(Clip(path=str(awkward / "ten_bit.mp4")), TRANSFORM)
    eight = read_clip(Clip(path=str(awkward / "0.mp4")), TRANSFORM)
    assert abs(ten.mean(axis=(1, 2, 3)) - eight.mean(axis=(1, 2, 3))).max() < 12
    variable = read_clip(Clip(path=str(awkward / "variable.mp4")), TRANSFORM).mean(axis=(1, 2, 3))
    steps = variable[1:] - variable[:-1]
    assert (abs(steps[[3, 4]]) < 1).all()  # one picture stays for three eighths of a second
    assert (steps[[0, 1, 2, 5, 6, 7]] > 10).all()


def test_sparse_sampling_spans_the_clip_and_dense_begins_it(media):
    clip = Clip(path=str(media / "0.mp4"))
    whole = read_clip(clip, replace(TRANSFORM, lengths=(12,)))
    dense = read_clip(clip, replace(TRANSFORM, lengths=(5,)))
    sparse = read_clip(clip, replace(TRANSFORM, lengths=(5,), sampling="sparse"))
    assert (dense == whole[:5]).all()
    assert (sparse == whole[[0, 2, 4, 7, 9]]).all()
    later = read_clip(replace(clip, start=0.5, end=1.2), replace(TRANSFORM, lengths=(5,)))
    assert (later == whole[4:9]).all()


def test_nothing_is_read_twice_and_nothing_stale_is_served(media, load, vae):
    before = load(media)
    files = {path: path.stat().st_mtime_ns for path in (media / "latents").glob("*.safetensors")}
    again = load(media)
    assert files == {p: p.stat().st_mtime_ns for p in (media / "latents").glob("*.safetensors")}
    assert before.sources == again.sources
    (media / "0.mp4").write_bytes((media / "1.mp4").read_bytes())  # another film of that name
    with torch.no_grad():
        changed = load(media)
        assert changed.sources != before.sources
        assert torch.equal(changed.tensors[0], before.tensors[1])
        next(vae.parameters()).add_(0.1)
        assert not torch.equal(load(media).tensors[0], changed.tensors[0])


def test_a_cache_is_served_where_the_footage_is_gone(media, load, tmp_path, vae):
    encoder = frames_encoder(vae)
    prepared = prepare(str(media), CLIPS, encoder, tmp_path / "cache")
    for clip in prepared.clips:
        assert len(clip.sha256) == 64
    rows = [{"path": clip.path, "sha256": clip.sha256} for clip in prepared.clips[:4]]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows[:2]:
        (media / row["path"]).unlink()
    clips = replace(CLIPS, cache=str(tmp_path / "cache"), image_ratio=0.0)
    data = load_frames(str(tmp_path / "list.jsonl"), clips, encoder, **(GIVEN | {"held_out": 1}))
    assert data.read(data.held_out[0]).shape == (1, 3, 9, 48, 80)


def test_what_was_done_before_a_kill_is_not_done_again(media, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "TENSORS_PER_SHARD", 2)
    monkeypatch.setattr(cache.Cache, "__exit__", lambda *error: None)  # a kill asks nobody
    whole, done = frames_encoder(vae), []

    def run(frames, fatal):
        if len(done) == fatal:
            raise KeyboardInterrupt
        done.append(frames)
        return whole.run(frames)

    for fatal in (5, 8):  # of which 4 and 6 were on disk
        with pytest.raises(KeyboardInterrupt):
            encoder = replace(whole, run=partial(run, fatal=fatal))
            prepare(str(media), CLIPS, encoder, tmp_path / "cache")
    prepared = prepare(
        str(media), CLIPS, replace(whole, run=partial(run, fatal=None)), tmp_path / "cache"
    )
    assert len(done) == 12 + 1 + 1
    assert len(prepared.items) == 12
    monkeypatch.undo()
    alone = prepare(str(media), CLIPS, whole, tmp_path / "another")
    assert prepared.keys == alone.keys
    for key in alone.keys:
        assert torch.equal(prepared.cache.read(key), alone.cache.read(key))


def test_a_half_written_or_damaged_shard_is_made_again(media, load, caplog):
    load(media)
    (shard,) = (media / "latents").glob("*.safetensors")
    shard.with_name(".x.safetensors.1.partial").write_bytes(shard.read_bytes()[:500])
    with safe_open(shard, "pt") as whole:
        count = len(list(whole.keys()))
    shard.write_bytes(shard.read_bytes()[:-100])
    data = load(media)
    assert "cannot be read" in caplog.text
    assert len(data.items) == count == 12


def test_latents_that_are_not_finite_are_left_out_and_not_kept(media, load, vae):
    with torch.no_grad():
        next(vae.parameters()).fill_(torch.nan)
    with pytest.raises(
        UserError, match=r"None of the 12 clips can be used \(12 x data: not finite\)"
    ):
        load(media)
    assert not list((media / "latents").glob("*.safetensors"))


def test_clips_are_held_out_by_their_row_else_the_last(media, load):
    rows = [
        {"path": f"{n}.mp4", "caption": "a ball"} | ({"split": "held_out"} if n in (1, 7) else {})
        for n in range(9)
    ]
    (media / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(media, replace(CLIPS, image_ratio=0.0))
    held = {
        data.rows[int(clip)]["path"][-5] for batch in data.held_out for clip in data.clips(batch)
    }
    assert held == {"1", "7"}
    assert data.count == 7


def test_stages_see_each_size_and_images_at_their_ratio(media, load):
    stages = (
        CurriculumStage(resolution=48, num_frames=5),
        CurriculumStage(from_step=10, image_ratio=0.5),
    )
    data = load(media, replace(CLIPS, image_ratio=0.0, stages=stages))
    first = [data.read(data.train.batch(step)).shape for step in range(10)]
    second = [data.read(data.train.batch(step)).shape for step in range(10, 30)]
    assert {shape[2] for shape in first} == {2}
    assert max(shape[3] * shape[4] for shape in first) < min(s[3] * s[4] for s in second)
    assert [shape[2] for shape in second].count(1) == 10


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (ClipsConfig(fps=8), r"clips\.resolution, clips\.num_frames: not given"),
        (replace(CLIPS, num_frames=10), r"10 frames do not fit the VAE, which takes 4k\+1"),
        (replace(CLIPS, resolution=512), r"12 x data: too small.*would be enlarged"),
    ],
)
def test_settings_that_leave_nothing_are_named(media, load, clips, message):
    with pytest.raises(UserError, match=message):
        load(media, clips)


def test_half_of_the_captions_tell_the_motion_that_curation_measured(media, load, vae):
    clips = [replace(clip, tags=("pan-left", "motion-high")) for clip in read_manifest(media)]
    clips[0] = replace(clips[0], tags=("overlay",))
    manifest = media / "tagged.jsonl"
    write_manifest(manifest, clips)
    rows = {
        row["path"]: row["captions"]
        for row in load(manifest, motion_words=True, max_length=24).rows
    }
    words = ", much motion, the camera pans left"
    assert rows.pop(clips[0].path) == ("a red ball rolls", "the red ball")
    for texts in rows.values():
        plain = [text for text in texts if not text.endswith(words)]
        assert plain and {*texts} == {*plain, *(text + words for text in plain)}
    write_manifest(manifest, [replace(clip, tags=()) for clip in clips])
    with pytest.raises(UserError, match="no clip has tags of motion"):
        load(manifest, motion_words=True)


def test_a_world_folder_is_one_bucket_in_the_order_it_always_had(clips, load):
    data = load(clips, ClipsConfig())
    assert data.sizes == {"fps": 8, "height": 16, "width": 32, "num_frames": 5}
    assert torch.equal(data.train.batch(3).indices, step_indices(9, 2, seed=0, step=3))
    with pytest.raises(UserError, match=r"clips\.fps is given, but .* `t2v world`"):
        load(clips, ClipsConfig(fps=8))
    short = load(clips, ClipsConfig(stages=(CurriculumStage(num_frames=5, image_ratio=0.5),)))
    assert [short.train.batch(step).num_frames for step in range(4)] == [5, 1, 5, 1]
