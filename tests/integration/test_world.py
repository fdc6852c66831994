"""`t2v world` and `t2v eval` through their doors: clips, text, judge, table."""

import json

import pytest
import torch
from transformers import AutoTokenizer, T5EncoderModel

from t2v.cli import main
from t2v.config.data import ClipsConfig
from t2v.data.dataset import load_latents
from t2v.data.world_shards import load_clips, pixels, read_rendered, read_shards
from t2v.errors import UserError
from t2v.evaluation.metrics.reconstruction import psnr
from t2v.models.text import unknown_words
from t2v.world.grammar import BACKGROUNDS
from t2v.world.labels import HEADS
from t2v.world.oracle import load_oracle

CLIPS = ["count=6", "workers=1", "num_frames=5", "height=16", "width=16"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "clips"
    assert main(["world", f"output={folder}", *CLIPS]) == 0
    return folder


def test_clips_come_with_captions_and_truth(clips):
    video = load_clips(clips).video
    assert video.shape == (6, 5, 16, 16, 3) and video.float().std() > 10
    rows = read_rendered(clips)
    assert {row.num_frames for row in rows} == {5}
    assert all(len(row.captions) == 4 for row in rows)
    assert all(row.extra["truth"]["background"] in BACKGROUNDS for row in rows)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A shard of long clips, many with acts or an unusual speed, and a small one of short ones."""
    folder = tmp_path_factory.mktemp("mixed") / "clips"
    words = ["count=280", "shapes=[17x16x16, 5x16x32]", "acts=0.5", "speeds=0.25"]
    assert main(["world", f"output={folder}", *words]) == 0
    return folder


def test_shards_take_the_shapes_in_turn_and_rows_tell_acts(mixed):
    rows = read_rendered(mixed)
    shapes = [(row.num_frames, row.height, row.width) for row in rows]
    short, long = (5, 16, 32), (17, 16, 16)
    assert shapes == [long] * 256 + [short] * 24
    shards = [video.shape[:4] for video, _ in read_shards(mixed)]
    assert shards == [(256, *long), (24, *short)]
    acts = [row for row in rows if "scenes" in row.extra]
    assert all(row.num_frames == 17 for row in acts) and 100 < len(acts) < 160
    for row in acts:
        first, second = row.extra["scenes"]
        assert first["truth"] == row.extra["truth"] != second["truth"]
        assert (first["start"], second["end"]) == (0, 17)
        assert first["end"] == second["start"] in (5, 9)
        assert all("then" in text for text in row.captions)
    speeds = [row.extra["truth"]["speed"] for row in rows if "speed" in row.extra["truth"]]
    assert set(speeds) == {"slow", "fast"} and 45 < len(speeds) < 95


def test_a_share_of_the_clips_hops_a_number_of_times(tmp_path):
    words = ["count=24", "height=16", "width=16", "repeats=0.5", "workers=1"]
    assert main(["world", f"output={tmp_path / 'hops'}", *words]) == 0
    rows = [row.extra["truth"] for row in read_rendered(tmp_path / "hops")]
    times = [row["times"] for row in rows if "times" in row]
    assert set(times) == {1, 2, 3} and 6 < len(times) < 18


def test_the_latents_of_clips_of_several_shapes_come_in_batches_of_one_shape(mixed, vae, tokenizer):
    data = load_latents(
        str(mixed), ClipsConfig(), vae, tokenizer, precision="fp32", max_length=60,
        batch_size=4, held_out=8, seed=0,
    )  # fmt: skip
    shapes = {tuple(data.read(data.train.batch(step)).shape[2:]) for step in range(60)}
    buckets = {item.bucket for item in data.items}
    assert buckets == {(5, 16, 32), (17, 16, 16)}
    assert len(shapes) == 2
    video = next(read_shards(mixed))[0][:32]
    with torch.no_grad():
        means = vae.encode(pixels(video)).latent_dist.mean
    kept = torch.stack([data.tensors[number] for number in range(32)])
    torch.testing.assert_close(kept.float(), means, atol=2e-3, rtol=2e-3)


def test_clips_of_several_shapes_are_refused_where_one_is_read(mixed):
    with pytest.raises(UserError, match=r"clips of 17x16x16 and of 5x16x32.*one shape is read"):
        load_clips(mixed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes=[17x64]"], "shapes=17x64: no shape of a clip. Give frames x height x width"),
        (["shapes=[17x64x0]"], "shapes.width=0: it must be from 1"),
        (["acts=0.8", "speeds=0.4"], "shares add up to at most 1"),
        (["scenes=1"], "scenes=1: a clip of several acts has at least 2"),
        (["acts=1", "scenes=3"], "scenes=3 take 49 frames, and there are clips of 17"),
        (["acts=-1"], "acts=-1.0: it must be"),
        (["acts=0.8", "repeats=0.4"], "or a number of hops, never two of them"),
        (["repeats=0.5", "num_frames=9"], "three hops take 17 frames, and there are clips of 9"),
    ],
)
def test_shapes_and_shares_that_are_none_are_refused(tmp_path, capsys, words, message):
    assert main(["world", f"output={tmp_path / 'clips'}", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_finished_folder_is_left_as_it_is(clips, capsys):
    before = {path: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert main(["world", f"output={clips}", *CLIPS]) == 0
    assert main(["world", f"output={clips}", *CLIPS, "seed=1"]) == 2
    assert "begun with the settings of" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in clips.iterdir()}


def test_shards_of_other_settings_are_never_mixed_in(clips, tmp_path, capsys):
    unfinished = tmp_path / "clips"
    unfinished.mkdir()
    for name in ("config.yaml", "clips-00000.safetensors"):
        (unfinished / name).write_bytes((clips / name).read_bytes())
    assert main(["world", f"output={unfinished}", *CLIPS, "seed=1"]) == 2
    assert "begun with" in capsys.readouterr().err
    assert not (unfinished / "manifest.jsonl").exists()


def test_text_learns_and_knows_the_words_of_the_world(tmp_path):
    words = ["count=200", "steps=2", "batch_size=8"]
    assert main(["world", "text", f"output={tmp_path}", *words]) == 0
    T5EncoderModel.from_pretrained(tmp_path / "text_encoder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert unknown_words(tokenizer, "a red ball bounces on Mars") == ["mars"]


def test_a_pipeline_is_judged_beside_real_clips(clips, pipe, tmp_path, capsys):
    oracle = tmp_path / "oracle"
    words = [f"data={clips}", "steps=2", "batch_size=4"]
    assert main(["world", "oracle", f"output={oracle}", *words]) == 0
    seen = load_oracle(str(oracle)).classify(torch.zeros(2, 3, 5, 16, 16))
    assert all(answer[name] in HEADS[name][0] for answer in seen for name in HEADS)
    pipe.register_to_config(max_sequence_length=40, height=16, width=16, num_frames=5)
    pipe.save_pretrained(tmp_path / "model")
    words = [f"oracle={oracle}", "count=3", "batch_size=2", "num_inference_steps=1"]
    assert main(["eval", str(tmp_path / "model"), "-o", str(tmp_path / "eval"), *words]) == 0
    table = capsys.readouterr().out
    for row in ("model", "real clips through the VAE", "real clips", "most common answer"):
        assert f"| {row} |" in table
    report = json.loads((tmp_path / "eval" / "eval.json").read_text())["suites"]["world"]
    assert len(report["videos"]) == report["prompts"] == 3
    inside = report["tables"]["reconstruction"]["real clips through the VAE"]["psnr_things"]
    assert f"{inside['value']:.3g} [" in table


def test_psnr_inside_objects_looks_nowhere_else():
    real = torch.full((2, 3, 4, 4, 3), 100, dtype=torch.uint8)
    rebuilt, masks = real.clone(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    masks[:, :, :2], rebuilt[:, :, :2] = 255, 110
    whole, inside = psnr(rebuilt, real)[0].item(), psnr(rebuilt, real, masks > 127)[0].item()
    assert inside == pytest.approx(28.13, abs=0.01)  # 20 log10(255 / 10)
    assert whole == pytest.approx(inside + 3.01, abs=0.01)  # half of the pixels are right
