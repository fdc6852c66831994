"""The nodes, called as ComfyUI's executor calls them, and the files that it loads."""

from __future__ import annotations

import inspect
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import t2v.comfyui
from t2v.cli import main
from t2v.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from t2v.comfyui.film import engine
from t2v.errors import UserError
from t2v.io.shipped import shipped

FOLDER = Path(t2v.comfyui.__file__).parent
WORKFLOWS = sorted((FOLDER / "example_workflows").glob("*.json"))
WIDGETS = {"STRING", "INT", "FLOAT", "BOOLEAN"}
# ComfyUI's own nodes in the workflows: inputs in their order, and outputs
CORE = {
    "CreateVideo": ({"images": "IMAGE", "fps": "FLOAT", "audio": "AUDIO"}, ("VIDEO",)),
    "SaveVideo": (
        {"video": "VIDEO", "filename_prefix": "STRING", "format": ["auto"], "codec": ["auto"]},
        (),
    ),
}
QUICK = {"num_inference_steps": 2, "num_frames": 5, "upscale": 1}
Link = list[Any]  # the id of a node and the number of its output
Graph = dict[str, dict[str, Any]]  # as ComfyUI's API takes it: class and inputs by id


def inputs_of(kind: str) -> dict[str, Any]:
    """The kinds of a node's inputs, in the order of their widgets."""
    if kind in CORE:
        return CORE[kind][0]
    asked = NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    return {name: each[0] for group in asked.values() for name, each in group.items()}


def outputs_of(kind: str) -> tuple[str, ...]:
    return CORE[kind][1] if kind in CORE else NODE_CLASS_MAPPINGS[kind].RETURN_TYPES


def is_widget(kind: Any) -> bool:
    return isinstance(kind, list) or kind in WIDGETS


class Executor:
    """Runs graphs as ComfyUI does: in inference mode, and again only what has changed."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Any, tuple[Any, ...]]] = {}  # signature and outputs by id
        self.ran: list[str] = []

    def run(self, graph: Graph, name: str) -> tuple[Any, ...]:
        """The outputs of a node, those before it made where they lack."""
        signature = self._signature(graph, name)
        if name not in self.known or self.known[name][0] != signature:
            node, values = graph[name], {}
            for key, value in node["inputs"].items():
                is_link = isinstance(value, list)
                values[key] = self.run(graph, value[0])[value[1]] if is_link else value
                self._check(node["class_type"], key, value, graph)
            kind = NODE_CLASS_MAPPINGS[node["class_type"]]
            missing = set(kind.INPUT_TYPES()["required"]) - set(values)
            assert not missing
            with torch.inference_mode():
                made = getattr(kind(), kind.FUNCTION)(**values)
            assert isinstance(made, tuple) and len(made) == len(kind.RETURN_TYPES)
            self.known[name] = signature, made
            self.ran.append(node["class_type"])
        return self.known[name][1]

    def _signature(self, graph: Graph, name: str) -> Any:
        node = graph[name]
        kind = NODE_CLASS_MAPPINGS[node["class_type"]]
        changed = None
        if hasattr(kind, "IS_CHANGED"):
            given = {k: None if isinstance(v, list) else v for k, v in node["inputs"].items()}
            changed = kind.IS_CHANGED(**given)
        about = {
            key: (self._signature(graph, value[0]), value[1]) if isinstance(value, list) else value
            for key, value in node["inputs"].items()
        }
        return node["class_type"], changed, str(about)

    def _check(self, kind: str, key: str, value: Any, graph: Graph) -> None:
        asked = NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
        (given,) = [group[key] for group in asked.values() if key in group]
        if isinstance(value, list):
            assert outputs_of(graph[value[0]]["class_type"])[value[1]] == given[0]
        elif isinstance(given[0], list):
            assert value in given[0]
        elif given[0] in ("INT", "FLOAT"):
            assert given[1]["min"] <= value <= given[1]["max"]


class Constant:
    """A node that gives pictures, as ComfyUI's LoadImage does."""

    FUNCTION, RETURN_TYPES = "give", ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"path": ("STRING", {})}}

    def give(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(np.stack([np.asarray(Image.open(p)) for p in path.split(":")]))
        images = images.float() / 255
        return images, images[..., 0]


@pytest.fixture
def executor(monkeypatch) -> Executor:
    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Constant", Constant)
    return Executor()


def graph_of(sample: dict[str, Any], **more: dict[str, Any]) -> Graph:
    """A model, "1", and a video of it, "2", with what stands before."""
    model = {"model": "t2v-tiny", "dtype": "auto", "offload": "none", "vae_tiling": False}
    model |= {"quantize": "none"}
    usual = {"prompt": "a red ball bounces on grass", "negative_prompt": "", "seed": 0}
    usual |= {"guidance_scale": 0.0, "width": 0, "height": 0, "model": ["1", 0], **QUICK}
    return {
        "1": {"class_type": "T2VModel", "inputs": model},
        "2": {"class_type": "T2VSample", "inputs": usual | sample},
        **more,
    }


def frames_of(made: tuple[Any, ...]) -> np.ndarray:
    """The frames `t h w c` uint8 of an IMAGE, which has exactly their levels."""
    images = made[0]
    assert images.dtype == torch.float32 and images.is_contiguous()
    levels = images * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    return levels.round().to(torch.uint8).numpy()


def sampled(folder: Path, *words: str) -> np.ndarray:
    """The frames that `t2v sample` makes, from a folder of PNGs."""
    quick = [f"{name}={value}" for name, value in QUICK.items()]
    assert main(["sample", "--model", "t2v-tiny", *words, "--output", f"{folder}/", *quick]) == 0
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Five soft pictures of another size than the video."""
    paths = []
    for number in range(5):
        small = np.roll(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), number, 1)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(small).resize((90, 70), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture
def lora(tmp_path) -> Path:
    """A LoRA of one layer of the embedded model, that changes its videos."""
    folder = shipped("t2v-tiny", "model_index.json")
    assert folder is not None
    layer = "blocks.0.attn1.to_q"
    with safe_open(folder / "transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        high, wide = file.get_slice(f"{layer}.weight").get_shape()
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, wide, generator=generator), torch.randn(high, 4, generator=generator)
    names = {"lora_A": down * 0.3, "lora_B": up * 0.3}
    path = tmp_path / "style.safetensors"
    save_file({f"transformer.{layer}.{name}.weight": each for name, each in names.items()}, path)
    return path


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_a_node_follows_the_protocol(name):
    kind = NODE_CLASS_MAPPINGS[name]
    assert NODE_DISPLAY_NAME_MAPPINGS[name] and kind.CATEGORY == "t2v" and kind.DESCRIPTION
    assert len(kind.RETURN_NAMES) == len(kind.RETURN_TYPES)
    asked = kind.INPUT_TYPES()
    assert set(asked) <= {"required", "optional"}
    names = {key: each for group in asked.values() for key, each in group.items()}
    values = dict.fromkeys(names)
    inspect.signature(getattr(kind(), kind.FUNCTION)).bind(**values)
    for key, (given, about) in names.items():
        if is_widget(given):
            assert key == "prompt" or about["tooltip"], key
            assert about["default"] in given if isinstance(given, list) else "default" in about
        if given in ("INT", "FLOAT"):
            assert about["min"] <= about["default"] <= about["max"]


def test_comfyui_finds_the_nodes_in_the_folder_under_any_name():
    spec = spec_from_file_location("custom_nodes_x_t2v", FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS is NODE_CLASS_MAPPINGS


def api_form(workflow: dict[str, Any]) -> Graph:
    """A workflow as the page sends it: widgets by name, links in the place of what they give."""
    links = {number: (str(source), slot) for number, source, slot, *_ in workflow["links"]}
    graph: Graph = {}
    for node in workflow["nodes"]:
        linked = {each["name"]: links[each["link"]] for each in node["inputs"] if each["link"]}
        values = iter(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for name, kind in inputs_of(node["type"]).items():
            if is_widget(kind):
                inputs[name] = next(values)
            if name == "seed":
                assert next(values) in ("fixed", "increment", "decrement", "randomize")
            if name in linked:
                inputs[name] = list(linked[name])
        assert next(values, None) is None
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_nodes_links_and_widgets_of_a_workflow_are_those_of_the_nodes(path):
    workflow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, kind in workflow["links"]:
        given, taken = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in given["links"] and taken["link"] == number
        assert given["type"] == taken["type"] == kind
        assert outputs_of(nodes[source]["type"])[slot] == kind
        assert inputs_of(nodes[target]["type"])[taken["name"]] == kind
    for name, node in api_form(workflow).items():
        wanted = inputs_of(node["class_type"])
        for key, value in node["inputs"].items():
            if isinstance(wanted[key], list):
                assert value in wanted[key], (name, key)


def test_a_graph_gives_the_bits_of_the_command_and_runs_again_only_what_changed(executor, tmp_path):
    graph = api_form(json.loads(WORKFLOWS[0].read_text()))
    (name,) = [n for n, node in graph.items() if node["class_type"] == "T2VSample"]
    graph[name]["inputs"] |= QUICK
    made = executor.run(graph, name)
    prompt = graph[name]["inputs"]["prompt"]
    assert np.array_equal(frames_of(made), sampled(tmp_path / "command", prompt))
    assert made[1] == 8.0
    executor.run(graph, name)
    assert executor.ran == ["T2VModel", "T2VSample"]
    graph[name]["inputs"]["seed"] = 1
    assert not np.array_equal(frames_of(executor.run(graph, name)), frames_of(made))
    assert executor.ran == ["T2VModel", "T2VSample", "T2VSample"]
    assert len(engine()) == 1


@pytest.mark.slow
def test_a_picture_and_a_lora_give_the_bits_of_the_command(executor, tmp_path, pictures, lora):
    more = {
        "3": {"class_type": "Constant", "inputs": {"path": str(pictures[0])}},
        "4": {
            "class_type": "T2VLoRA",
            "inputs": {"model": ["1", 0], "lora": str(lora), "strength": 0.5},
        },
    }
    graph = graph_of({"model": ["4", 0], "image": ["3", 0]}, **more)
    made = frames_of(executor.run(graph, "2"))
    words = ["a red ball bounces on grass", "--image", str(pictures[0])]
    tuned = [f"lora={lora}", "lora_scale=0.5"]
    assert np.array_equal(made, sampled(tmp_path / "tuned", *words, *tuned))
    graph["2"]["inputs"]["model"] = ["1", 0]
    assert not np.array_equal(made, frames_of(executor.run(graph, "2")))


def test_reference_pictures_give_the_bits_of_the_command(executor, tmp_path, pictures):
    path = ":".join(map(str, pictures[:2]))
    more = {"3": {"class_type": "Constant", "inputs": {"path": path}}}
    graph = graph_of({"reference_images": ["3", 0]}, **more)
    graph["1"]["inputs"]["model"] = "t2v-tiny-references"
    made = frames_of(executor.run(graph, "2"))
    words = [graph["2"]["inputs"]["prompt"], "--model", "t2v-tiny-references"]
    for picture in pictures[:2]:
        words += ["--reference", str(picture)]
    assert np.array_equal(made, sampled(tmp_path / "two", *words))
    graph["1"]["inputs"]["model"] = "t2v-tiny"
    with pytest.raises(UserError, match="reference"):
        executor.run(graph, "2")


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"strength": 0.5}, {"mask": True}])
def test_a_clip_that_is_edited_gives_the_bits_of_the_command(executor, tmp_path, pictures, given):
    clip = tmp_path / "clip.gif"
    frames = [Image.open(path) for path in pictures]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=125)
    shown = [tmp_path / f"shown-{number}.png" for number in range(5)]
    with Image.open(clip) as opened:  # 256 colours, as the command reads it
        for number, path in enumerate(shown):
            opened.seek(number)
            opened.convert("RGB").save(path)
    mask = Image.new("RGB", (90, 70))
    mask.paste("white", (0, 0, 45, 70))
    mask.save(tmp_path / "mask.png")
    path = ":".join(map(str, shown))
    more = {
        "3": {"class_type": "Constant", "inputs": {"path": path}},
        "4": {"class_type": "Constant", "inputs": {"path": str(tmp_path / "mask.png")}},
    }
    sample: dict[str, Any] = {"video": ["3", 0]}
    words = ["a red ball bounces on grass", "--video", str(clip)]
    if "mask" in given:
        sample["mask"] = ["4", 1]
        words += ["--mask", str(tmp_path / "mask.png")]
    else:
        sample |= given
        words += ["--strength", "0.5"]
    made = executor.run(graph_of(sample, **more), "2")
    assert np.array_equal(frames_of(made), sampled(tmp_path / "command", *words))


class Stopped(Exception):
    """What ComfyUI raises when its user pressed stop."""


class Comfy:
    """ComfyUI's modules around a node: a bar that keeps what it shows, and a stop button."""

    def __init__(self, monkeypatch) -> None:
        self.shown: list[tuple[int, Any]] = []
        self.stop_after: int | None = None
        self.asked_for = 0
        utils, management = ModuleType("comfy.utils"), ModuleType("comfy.model_management")
        utils.ProgressBar = lambda total: self
        management.throw_exception_if_processing_interrupted = self.check
        management.get_torch_device = lambda: torch.device("cpu")
        management.free_memory = self.free
        for module in (utils, management):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
        assert 0 < value <= total
        self.shown.append((value, preview))

    def check(self) -> None:
        if self.stop_after is not None and len(self.shown) >= self.stop_after:
            raise Stopped

    def free(self, nbytes: float, device: torch.device) -> None:
        self.asked_for = max(self.asked_for, nbytes)


def test_steps_are_shown_and_stop_ends_the_video_at_the_next_one(executor, monkeypatch):
    comfy = Comfy(monkeypatch)
    engine().clear()
    executor.run(graph_of({"num_inference_steps": 3}), "2")
    assert [step for step, _ in comfy.shown] == [1, 2, 3]
    previews = [preview for _, preview in comfy.shown if preview is not None]
    assert previews and all(kind == "JPEG" for kind, *_ in previews)
    assert previews[0][1].size == (64, 64)
    assert comfy.asked_for > 2**20
    comfy.shown, comfy.stop_after = [], 2
    with pytest.raises(Stopped):
        executor.run(graph_of({"num_inference_steps": 3, "seed": 1}), "2")
    assert [step for step, _ in comfy.shown] == [1, 2]
    comfy.stop_after = None
    assert executor.run(graph_of({"seed": 1}), "2")[0].shape == (5, 64, 64, 3)


def test_a_lora_is_found_by_its_name_in_the_folders_of_comfyui(lora, monkeypatch):
    folders = ModuleType("folder_paths")
    found = {("loras", "style.safetensors"): str(lora)}
    folders.get_full_path = lambda kind, name: found.get((kind, name))
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    model = NODE_CLASS_MAPPINGS["T2VModel"]().choose(model="t2v-tiny")
    (once,) = NODE_CLASS_MAPPINGS["T2VLoRA"]().add(*model, "style.safetensors", 0.5)
    (twice,) = NODE_CLASS_MAPPINGS["T2VLoRA"]().add(once, str(lora), 1.0)
    assert twice.lora == (str(lora), str(lora)) and twice.lora_scale == (0.5, 1.0)
    assert twice.lora_part == ()


def test_two_loras_go_into_the_transformers_that_are_named(lora):
    add = NODE_CLASS_MAPPINGS["T2VLoRA"]().add
    model = NODE_CLASS_MAPPINGS["T2VModel"]().choose(model="t2v-tiny")
    (high,) = add(*model, str(lora), 1.0, "transformer")
    (both,) = add(high, str(lora), 0.5, "transformer_2")
    assert both.lora_part == ("transformer", "transformer_2") and both.lora_scale == (1.0, 0.5)
    with pytest.raises(UserError, match="each has a part"):
        add(high, str(lora), 0.5)


def test_a_model_that_is_saved_again_is_read_again(tmp_path):
    kind = NODE_CLASS_MAPPINGS["T2VModel"]
    (tmp_path / "model_index.json").write_text("{}")
    before = kind.IS_CHANGED(model=str(tmp_path))
    assert before == kind.IS_CHANGED(model=str(tmp_path))
    (tmp_path / "model_index.json").write_text("{ }")
    assert kind.IS_CHANGED(model=str(tmp_path)) != before
    assert kind.IS_CHANGED(model=None) == ""  # of another node


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class": "T2VModel", "model": "someone/model"}, "a workflow downloads nothing"),
        ({"class": "T2VModel", "model": "s3://bucket/model"}, "a workflow downloads nothing"),
        ({"class": "T2VLoRA", "lora": "none.safetensors"}, "there is no such file"),
        ({"class": "T2VLoRA", "lora": " "}, "there is no such file"),
        ({"class": "T2VSample", "height": 33}, "Nearest"),
        ({"class": "T2VSample", "strength": 0.5}, "strength=0.5"),
        ({"class": "T2VSample", "mask": torch.ones(1, 64, 64)}, "mask"),
        (
            {"class": "T2VSample", "video": torch.zeros(5, 64, 64, 3), "mask": torch.ones(2, 8, 8)},
            "mask: has 2 frames of 8x8 and video 5 of 64x64",
        ),
        (
            {
                "class": "T2VSample",
                "video": torch.zeros(5, 64, 64, 3),
                "mask": torch.zeros(1, 64, 64),
            },
            "black everywhere",
        ),
    ],
)
def test_what_cannot_work_is_a_message(executor, given, message):
    given = dict(given)
    kind = given.pop("class")
    with pytest.raises(UserError, match=message):
        if kind == "T2VModel":
            NODE_CLASS_MAPPINGS[kind]().choose(**given)
        elif kind == "T2VLoRA":
            (model,) = NODE_CLASS_MAPPINGS["T2VModel"]().choose(model="t2v-tiny")
            NODE_CLASS_MAPPINGS[kind]().add(model, strength=1.0, **given)
        else:
            (model,) = NODE_CLASS_MAPPINGS["T2VModel"]().choose(model="t2v-tiny")
            inputs = graph_of({})["2"]["inputs"] | given | {"model": model}
            NODE_CLASS_MAPPINGS[kind]().sample(**inputs)
