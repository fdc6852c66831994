"""`t2v bench`: its figures are those of the work done, and a mistake is named."""

import json
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from torch import nn

from t2v.bench.attention import bench as bench_attention
from t2v.bench.curation import bench as bench_curation
from t2v.bench.pairs import rounds, utilisation, verdict
from t2v.bench.peers import COLUMNS, transformers, vaes
from t2v.bench.peers import bench as bench_peers
from t2v.bench.pipeline import bench, stages
from t2v.bench.report import print_table
from t2v.bench.stopwatch import count_flop, peak_memory
from t2v.config.bench import BenchAttentionConfig, BenchConfig, BenchCurateConfig, BenchPeersConfig
from t2v.config.load import load_config
from t2v.errors import UserError
from t2v.models.kernels.choice import processor
from t2v.pipelines.t2v_generator import T2VGenerator

CPU = torch.device("cpu")
LINEAR = 2 * 5 * 7 * 64 * 32
ATTENTION = 2 * 2 * 4 * 16 * 16 * 8
CONVOLUTION = 2 * 16 * (4 * 6 * 6) * 8 * 27


@torch.no_grad()
def test_flop_are_counted_through_every_kernel_a_cpu_takes():
    linear, x = nn.Linear(64, 32), torch.ones(5, 7, 64)
    conv, video = nn.Conv3d(8, 16, 3, padding=1), torch.ones(1, 8, 4, 6, 6)
    onednn = torch.ops.mkldnn._linear_pointwise
    q = torch.ones(1, 4, 16, 8)
    ones = (1, 1, 1)
    assert count_flop(lambda: linear(x)) == LINEAR
    assert count_flop(lambda: onednn(x, linear.weight, linear.bias, "none", [], "")) == LINEAR
    assert count_flop(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == ATTENTION
    assert count_flop(lambda: conv(video)) == CONVOLUTION
    args = (video, conv.weight, conv.bias, ones, ones, ones, 1)
    assert count_flop(lambda: torch.mkldnn_convolution(*args)) == CONVOLUTION


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a peak that can be reset")
def test_peak_memory_sees_what_a_run_frees_before_it_ends():
    def rise_and_fall():
        torch.ones(50, 2**18).sum().item()  # 50 MiB

    assert peak_memory(rise_and_fall, CPU) == pytest.approx(50, abs=5)
    assert peak_memory(rise_and_fall, CPU) == pytest.approx(50, abs=5)  # the second time too
    assert peak_memory(lambda: None, CPU) < 5


def test_a_run_prints_what_it_writes(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    config = BenchConfig(
        model=str(tmp_path / "model"),
        device="cpu",
        warmup=0,
        repeats=2,
        memory_frames=(5,),
        json=str(tmp_path / "bench.json"),
    )
    report = bench(config)
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(report))
    assert [row["stage"] for row in report["stages"]] == ["text", "denoise", "decode", "encode"]
    for row in report["stages"]:
        assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]
        assert row["gflop"] > 0
        assert 0 < row["utilisation"] < 1
    printed = capsys.readouterr().out
    assert all(row["stage"] in printed for row in report["stages"])
    assert report["vae_memory"][0]["frames"] == 5


def test_twice_the_steps_are_twice_the_work_of_denoising(pipe):
    flop = [
        count_flop(stages(T2VGenerator(pipe), BenchConfig(num_inference_steps=steps))["denoise"])
        for steps in (2, 4)
    ]
    assert flop[1] == pytest.approx(2 * flop[0], rel=0.1)  # text keys and values are made once


def test_what_was_not_measured_is_a_dash(capsys):
    print_table([{"frames": 5, "encode_mib": None}], ("frames", "encode_mib"))
    assert capsys.readouterr().out.split() == ["frames", "encode_mib", "5", "-"]


def test_no_repeats_is_a_mistake_that_is_named():
    with pytest.raises(UserError, match="repeats=0"):
        load_config(BenchConfig, None, ["repeats=0"])


def test_another_pipeline_than_ours_is_refused_by_name(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a DDPMPipeline does not give latents, which t2v bench"):
        bench(BenchConfig(model=str(tmp_path), device="cpu"))


def test_curation_is_measured_beside_decoding(tmp_path, capsys):
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for level in range(0, 240, 10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8))
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    config = BenchCurateConfig(footage=str(tmp_path), repeats=1, json=str(tmp_path / "speed.json"))
    report = bench_curation(config)
    assert [row["run"] for row in report["curation"]] == ["decode", "curate"]
    assert [row["frames"] for row in report["curation"]] == [24, 24]
    assert "by_decode" in capsys.readouterr().out
    assert json.loads((tmp_path / "speed.json").read_text()) == report
    bench_curation(config)  # its own figures are replaced


def test_a_config_of_before_curation_had_its_own_command_loads(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("what: pipeline\nfootage: ''\nrepeats: 3\n")
    assert load_config(BenchConfig, file, []).repeats == 3
    with pytest.raises(UserError, match="t2v bench curate FOOTAGE"):
        load_config(BenchConfig, None, ["what=curate"])


@pytest.mark.parametrize("theirs", ["MINE", "[1]", '{"config": 3}', '{"config": {"a": 1}}'])
def test_a_file_of_others_is_not_replaced_by_figures(theirs, tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(theirs)
    with pytest.raises(UserError, match="overwrite=true"):
        bench(BenchConfig(json=str(file), model="no/such/model"))
    assert file.read_text() == theirs


def test_the_ratio_of_pairs_has_an_interval_and_a_restless_probe_no_verdict():
    ours, peer = [1.0, 2.0, 1.0, 4.0, 1.0], [2.0, 4.0, 2.2, 8.0, 1.8]
    found = verdict(ours, peer, [1.0, 1.02, 0.98, 1.0, 1.01])
    assert found.ratio == 2 and found.low <= 2 <= found.high and found.told == "faster"
    assert (found.low, found.high) == pytest.approx((1.8, 2.2))
    assert verdict(peer, ours, [1.0] * 5).told == "slower"
    assert verdict([1.0, 2.0, 1.0], [2.0, 1.0, 1.0], [1.0] * 3).told == "equal"
    restless = verdict(ours, peer, [1.0, 1.0, 1.0, 1.0, 1.3])
    assert restless.told == "noisy" and restless.ratio == 2
    assert restless.spread == pytest.approx(0.3)
    assert verdict(ours, peer, [1.0, 1.1, 1.0, 1.05, 1.0]).told == "faster"
    assert verdict([1.0], [3.0], [1.0]).ratio == 3


def test_utilisation_is_of_the_probe_in_the_same_round():
    assert utilisation(10, [1.0, 2.0, 8.0], 20, [1.0, 2.0, 4.0]) == pytest.approx(0.5)


def test_rounds_run_each_side_once_and_turn_their_order_about():
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("a", "b", "c")}
    times = rounds(runs, CPU, 3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3, "c": 3}


SMALL = BenchPeersConfig(
    dim=64, layers=1, num_frames=5, height=16, width=16, text_tokens=3, vae_dim=8, vae_frames=5,
    vae_side=8, steps=2, rounds=1, dtypes=("fp32",), device="cpu",
    cases=("train", "decode", "pipeline"),
)  # fmt: skip


def test_peers_have_equal_weights_and_their_cases_nearly_equal_results(tmp_path, capsys):
    for ours, peer in (transformers(SMALL, CPU), vaes(SMALL, CPU)):
        given, wanted = ours.state_dict(), peer.state_dict()
        assert given.keys() == wanted.keys()
        assert all(given[name].equal(wanted[name]) for name in wanted)
    file = tmp_path / "peers.json"
    report = bench_peers(replace(SMALL, json=str(file)))
    assert json.loads(file.read_text()) == json.loads(json.dumps(report))
    assert [row["case"] for row in report["peers"]] == list(SMALL.cases)
    for row in report["peers"]:
        assert row["error"] < 1e-4 and row["gflop"] > 0 and row["low"] <= row["high"]
        assert row["util_ours"] > 0 and row["util_peer"] > 0 and row["probe_gflops"] > 0
    head, names, *rows = capsys.readouterr().out.splitlines()
    assert processor() in head and len(rows) == 3
    assert names.split() == list(COLUMNS)


@pytest.mark.parametrize("wrong", ["dim=100", "height=20", "num_frames=16", "rounds=0", "cases=[]"])
def test_a_size_that_no_peer_has_is_named(wrong):
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        load_config(BenchPeersConfig, None, [wrong])


SMALL_LAYERS = BenchAttentionConfig(
    device="cpu",
    grids=("2x4x4", "4x8x8"),
    dim=128,
    layouts=("window", "axial", "strided:8", "swap"),
    repeats=2,
)


@pytest.mark.slow
def test_layouts_are_measured_over_tokens_and_their_flop_are_those_of_their_pairs(tmp_path, capsys):
    file = tmp_path / "attention.json"
    report = bench_attention(replace(SMALL_LAYERS, json=str(file)))
    assert json.loads(file.read_text()) == json.loads(json.dumps(report))
    words = ["full", "window", "axial", "strided:8", "swap"]
    assert [row["layout"] for row in report["layouts"]] == words * 2
    for row in report["layouts"]:
        assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]
        assert row["low"] <= row["by_full"] <= row["high"]
    gflop = {row["layout"]: row["gflop"] for row in report["layouts"] if row["tokens"] == 256}
    tokens, dim = 256, 128
    products = 4 * 2 * tokens * dim**2
    pairs = {"full": tokens, "window": 64, "axial": (4 + 8 + 8) / 3, "strided:8": (16 + 32) / 2}
    for word, seen in pairs.items():
        assert gflop[word] * 1e9 == pytest.approx(products + 4 * tokens * seen * dim)
    exponents = {row["layout"]: row["flop_last"] for row in report["exponents"]}
    assert exponents["full"] > exponents["axial"] > 0.9
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*words, "exponent"))
    bench_attention(replace(SMALL_LAYERS, grids=("1x2x2",), json=str(file), backward=True))
    assert json.loads(file.read_text())["exponents"][0]["time"] is None


def test_a_size_or_a_layout_that_is_none_is_named_before_anything_is_measured():
    with pytest.raises(UserError, match="frames x rows x columns"):
        load_config(BenchAttentionConfig, None, ["grids=[5x4]"])
    with pytest.raises(UserError, match="'rows' is unknown"):
        bench_attention(replace(SMALL_LAYERS, layouts=("rows",)))
