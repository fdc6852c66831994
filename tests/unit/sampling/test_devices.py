"""What processes send each other, and which part of a step each computes."""

import fsspec
import pytest
import torch

from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.kv_cache import KVCache
from t2v.models.split import Split
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.sampling.calls import Half, Outbox
from t2v.sampling.devices import denoisers_of, split_for


def test_a_tensor_is_sent_once_until_it_is_written_to_and_forgotten_with_it():
    outbox, text, cache = Outbox(), torch.ones(2, 3), KVCache()
    assert [outbox._numbered(each) for each in (text, cache, text, 7)] == [
        *((True, 1), (False, 2), (True, 1)),
        None,
    ]
    assert [number for number, _ in outbox.fresh] == [1]
    text.add_(1)
    assert outbox._numbered(text) == (True, 3) and outbox.gone == [1]
    with torch.inference_mode():
        uncounted = torch.ones(1)
    assert outbox._numbered(uncounted) != outbox._numbered(uncounted)


def test_the_own_rows_of_a_tensor_are_the_same_tensor_until_it_is_written_to():
    half, text, table = Half(1), torch.arange(4.0).reshape(4, 1), torch.ones(3, 2)
    cache = KVCache()
    (rows,), options = half.of(((text,), {"table": table, "more": {"kv_cache": cache}}), 4)
    assert rows.flatten().tolist() == [2, 3]
    assert options["table"] is table and options["more"]["kv_cache"] is cache
    assert half.of(text, 4) is rows
    text.zero_()
    assert half.of(text, 4).tolist() == [[0], [0]]
    del text
    half.of(table, 4)
    assert half.rows == {}


@pytest.mark.parametrize(
    ("count", "settings", "wanted"),
    [
        (2, {}, Split(guidance=2)),
        (4, {}, Split(guidance=2, sequence=2)),
        (3, {}, Split(sequence=3)),
        (4, {"parallel": "sequence"}, Split(sequence=4)),
        (4, {"parallel": "ring", "device": "cpu"}, Split(sequence=4, ring=True)),
        (2, {"parallel": "ring", "device": "cpu", "attention": "_native_math"}, "sums of their"),
        (2, {"guidance_scale": 1}, Split(sequence=2)),
        (2, {"image": "x.png", "image_guidance_scale": 2}, Split(sequence=2)),
        (2, {"parallel": "guidance", "guidance_scale": 1}, "guidance_scale=1 .* take 1 pass a"),
    ],
)
def test_guidance_is_split_first_and_then_the_sequence(pipe, count, settings, wanted):
    generator, config = T2VGenerator(pipe), SampleConfig(**settings)
    if isinstance(wanted, Split):
        assert split_for(generator, config, count) == wanted
        assert wanted.processes == count
    else:
        with pytest.raises(UserError, match=wanted):
            split_for(generator, config, count)


def test_a_layout_whose_tokens_are_not_split_takes_two_processes(pipe):
    pipe.transformer._cp_plan = None  # as with some layouts of attention
    assert split_for(T2VGenerator(pipe), SampleConfig(), 2) == Split(guidance=2)
    with pytest.raises(UserError, match=r"of a T2VTransformer3DModel are not split.*Start two"):
        split_for(T2VGenerator(pipe), SampleConfig(), 4)


def test_each_machine_brings_the_transformers_of_an_address(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pipe.save_pretrained(tmp_path / "base")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "base"), "/b/model", recursive=True)
    try:
        config = load_config(SampleConfig, None, ["model=memory://b/model"])
        networks = denoisers_of(config, torch.device("cpu"))
    finally:
        store.rm("/b", recursive=True)
    assert networks.keys() == {"transformer"}
    weights, wanted = networks["transformer"].state_dict(), pipe.transformer.state_dict()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
