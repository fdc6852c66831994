"""Modules that run when they are used, and not when they are imported."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from t2v.cli import deferred

ROOT = Path(__file__).parents[2]
PACKAGE = {
    "__init__.py": "ran.append('pkg')\nfrom pkg.inner import Thing, twice\nfrom pkg import side\n",
    "inner.py": """
        ran.append('inner')
        from pkg import shape
        class Thing: pass
        class Round(shape.Shape, Thing): pass
        def twice(x): return 2 * x
        """,
    "shape.py": "ran.append('shape')\nclass Shape: pass\n",
    "side.py": "ran.append('side')\n",
    "user.py": "from pkg.inner import Thing, twice\n",
    "broken.py": "ran.append('broken')\nraise ImportError('no such library')\n",
}
NAMES = {
    "__init__.py": "ran.append('names')\nfrom .red import Red as Colour\nfrom .blue import Blue\n"
    "made = Blue()\n",
    "red.py": "ran.append('red')\nclass Red: pass\n",
    "blue.py": "ran.append('blue')\nclass Blue: pass\n",
}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The list of what has run of two packages, one deferred, one that collects names."""
    done = []
    for name, files in (("pkg", PACKAGE), ("names", NAMES)):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            head = "" if file == "user.py" else "from builtins import ran\n"
            (tmp_path / name / file).write_text(head + dedent(text))
    (tmp_path / "user.py").write_text("from pkg.inner import Thing, twice\nimport pkg.inner\n")
    monkeypatch.setattr("builtins.ran", done, raising=False)
    monkeypatch.setattr(
        deferred,
        "DEFERRED",
        {"pkg": (), "pkg.inner": ("Thing", "twice", "inner.Thing"), "pkg.broken": ()},
    )
    monkeypatch.setattr(deferred, "COLLECTIONS", {"names"})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(tmp_path)
    deferred.defer()
    yield done
    for name in [each for each in sys.modules if each.split(".")[0] in ("pkg", "names", "user")]:
        del sys.modules[name]


def test_a_deferred_module_runs_when_a_name_is_used_and_its_package_before_it(ran):
    user = importlib.import_module("user")
    assert not isinstance(3, user.Thing) and not ran
    assert user.twice(4) == 8
    assert ran == ["pkg", "inner", "shape", "side"]
    inner = sys.modules["pkg.inner"]
    assert type(inner) is type(sys) and inner.Round.__mro__[2] is inner.Thing
    assert isinstance(inner.Round(), user.Thing) and issubclass(inner.Round, user.Thing)

    class Own(user.Thing):
        pass

    assert isinstance(Own(), inner.Thing)


def test_a_module_of_a_deferred_package_runs_once_and_after_it(ran):
    importlib.import_module("pkg")
    shape = importlib.import_module("pkg.shape")
    assert ran == ["pkg", "inner", "shape", "side"]
    assert shape is sys.modules["pkg"].shape and shape.__spec__.name == "pkg.shape"
    assert importlib.import_module("pkg.side") and len(ran) == 4


def test_a_package_that_collects_names_takes_each_from_its_module(ran):
    names = importlib.import_module("names")
    assert importlib.import_module("names.blue") is names.blue
    assert names.Colour is sys.modules["names.red"].Red
    assert ran == ["blue", "red"]
    assert isinstance(names.made, names.Blue) and ran == ["blue", "red", "names"]
    with pytest.raises(AttributeError, match="none"):
        _ = names.none


def test_a_deferred_module_that_fails_raises_what_its_import_would_each_time(ran):
    broken = importlib.import_module("pkg.broken")
    for _ in range(2):
        with pytest.raises(ImportError, match="no such library"):
            _ = broken.name
    assert ran[-2:] == ["broken", "broken"]
    assert not hasattr(broken, "__warningregistry__")  # which unittest asks every module for


SAMPLE = """
import json, sys
from t2v.cli import main
from t2v.cli.deferred import is_idle

code = main()
json.dump([name for name, module in sys.modules.items() if not is_idle(module)], sys.stderr)
assert code == 0
"""
USE = """
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.loaders import lora_base
from diffusers.models.attention import BasicTransformerBlock
from diffusers.utils.torch_utils import is_compiled_module
from torch._subclasses.fake_tensor import FakeTensorMode

block = torch.nn.ModuleDict({"to_q": torch.nn.Linear(2, 2)})
assert not isinstance(block.to_q, lora_base.BaseTunerLayer)
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
inject_adapter_in_model(LoraConfig(target_modules=["to_q"]), block)
assert isinstance(block.to_q, lora_base.BaseTunerLayer) and isinstance(block.to_q, BaseTunerLayer)

with FakeTensorMode():
    torch.empty(2)
compiled = torch.compile(block, backend="eager")
assert is_compiled_module(compiled) and not is_compiled_module(block)
assert torch._dynamo.trace_rules.is_callable_allowed(BasicTransformerBlock)

scheduler = FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True)
scheduler.set_timesteps(3)
assert len(scheduler.sigmas) == 4
"""
ROOMS = {
    *("cli", "config", "distributed", "errors", "families", "footage", "io", "models"),
    *("pipelines", "sampling"),
}
OTHERS = {  # of what diffusers, transformers and torch import where it is installed
    *("bitsandbytes", "cv2", "matplotlib", "pandas", "peft", "scipy.integrate", "scipy.linalg"),
    *("scipy.optimize", "scipy.stats", "sklearn", "tensorboard", "torch._dynamo"),
    *("torch._inductor", "torch.utils.tensorboard", "torchao", "torchvision"),
}


def test_a_video_waits_for_no_code_it_does_not_need_and_that_is_whole_when_it_is_used(tmp_path):
    words = [
        "a ball",
        "num_inference_steps=1",
        "height=32",
        "width=32",
        "num_frames=5",
        "upscale=1",
    ]
    words += ["device=cpu", "-o", str(tmp_path / "x.mp4")]
    command = [sys.executable, "-c", SAMPLE + USE, "sample", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules = json.loads(done.stderr.splitlines()[-1])
    assert not OTHERS & set(modules)
    ours = [name for name in modules if name.split(".")[0] == "t2v"]
    assert len(ours) <= 98  # judging, training and curating are not among them
    assert {name.split(".")[1] for name in ours if "." in name} == ROOMS
