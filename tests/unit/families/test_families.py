"""Each family draws the videos of its own pipeline in diffusers, and goes on from any step."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.families.pictures import VISUAL, arguments, references, takes
from t2v.families.table import FAMILIES, family_of
from t2v.models.convert import CONVERTIBLE
from t2v.pipelines.generator import Request, Start, Step, to_uint8
from t2v.pipelines.visuals import VisualInputs
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.family import FAMILIES as TRAINED

from . import page
from .tiny import BUILDERS, build
from .tiny_cosmos import COSMOS_BUILDERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast"),  # Mochi asks for fp32
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of schedulers, in numpy
]
PROMPT, STEPS = "a red ball", 3
CLIP = np.full((3, 16, 16, 3), 9, dtype=np.uint8)
SIZE = dict(
    height=16, width=16, num_frames=9, fps=None, num_inference_steps=STEPS, guidance_scale=None
)


@pytest.fixture
def text(tokenizer, text_encoder):
    return {"tokenizer": tokenizer, "text_encoder": text_encoder}


class Made(NamedTuple):
    """A tiny generator of `BUILDERS`, what is asked of it and what it is given to see."""

    name: str
    generator: FamilyGenerator
    asked: Request
    seen: VisualInputs | None

    @property
    def length(self) -> int:
        """The frames that its VAE holds."""
        return BUILDERS[self.name][1][2]


@pytest.fixture(params=BUILDERS)
def made(request, text, wake):
    if request.param in COSMOS_BUILDERS:
        pytest.importorskip("torchvision", reason="the networks of Cosmos import it")
    generator = FamilyGenerator(build(request.param, text, wake))
    height, width, frames = BUILDERS[request.param][1]
    asked = replace(
        generator.defaults,
        height=height,
        width=width,
        num_frames=frames - 1,  # no length that a VAE holds
        num_inference_steps=STEPS,
        strength=0.7 if "strength" in generator.takes else None,
    )
    shapes = {"image": 1, "last_image": 1} if "image" in generator.takes else {"video": frames - 1}
    if request.param == "forcing_v2v":
        shapes = {"video": 17}
    pixels = np.random.default_rng(0)
    given = {
        name: pixels.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        for name, count in shapes.items()
        if name in generator.takes
    }
    if "mask" in generator.takes:
        given["mask"] = np.full((1, height, width, 3), 255, dtype=np.uint8)
        given["mask"][:, :8] = 0
    return Made(request.param, generator, asked, VisualInputs(**given) if given else None)


def draw(made: Made, start: Start | None = None) -> tuple[torch.Tensor, list[Step]]:
    """What seed 3 gives, and the steps on the way."""
    generator, asked, seen = made[1:]
    steps: list[Step] = []
    generator.check(PROMPT, asked, seen)
    conditions = generator.encode([PROMPT], asked, [seen])
    return generator.generate(conditions, asked, [3], watch=steps.append, start=start), steps


def shown(made: Made) -> dict[str, object]:
    """What it is given to see as calls take it: images of Pillow, clips of the VAE's length."""
    given = (
        {} if made.seen is None else {each: getattr(made.seen, each) for each in made.seen.names()}
    )
    images = {name: [Image.fromarray(each) for each in given[name]] for name in given}
    if "mask" in images:
        images["mask"] *= made.length
    clips = {name: each for name, each in images.items() if name in ("video", "mask")}
    clips = {
        name: each + each[-1:] * (made.length - 1 == len(each)) for name, each in clips.items()
    }
    return {name: each[0] for name, each in images.items() if name not in clips} | clips


def of_diffusers(made: Made) -> np.ndarray:
    """The frames of the pipeline's own call, cropped to the length that was asked for."""
    name, taken = type(made.generator.pipeline).__name__, made.generator.parameters
    given = {
        "frames" if name.startswith("Sana") else "num_frames": made.length,
        "strength": made.asked.strength,
        **shown(made),
        "frame_rate": made.asked.fps,
        "overlap_history": 17,
        "use_resolution_binning": False,
    }
    output = made.generator.pipeline(
        prompt=PROMPT,
        height=made.asked.height,
        width=made.asked.width,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        **{key: value for key, value in given.items() if key in taken and value is not None},
    )
    frames = to_uint8(np.asarray(output.frames)[:, : made.asked.num_frames]).astype(int)
    if "audio" not in output:
        assert made.generator.sound is None
    else:
        heard = made.generator.sound.samples
        assert (heard == output.audio[0, :, : heard.shape[1]].numpy()).all()
        length = made.asked.num_frames / made.asked.fps
        assert heard.shape[1] / made.generator.sound.rate == pytest.approx(length, abs=0.01)
    return frames


@contextmanager
def decoded_by(vae: Any) -> Iterator[list[torch.Tensor]]:
    """The latents that a VAE decodes in a block."""
    plain: Any = vae.decode
    found: list[torch.Tensor] = []

    def decode(latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        found.append(latents.clone())
        return plain(latents, *args, **options)

    vae.decode = decode
    try:
        yield found
    finally:
        del vae.decode


def test_frames_are_those_of_diffusers_and_kept_steps_are_not_made_again(made):
    generator, asked = made.generator, made.asked
    vae = generator.pipeline.vae
    with decoded_by(vae) as given:
        latents, steps = draw(made)
        frames = generator.decode(latents, asked.num_frames)
    assert frames.shape == (1, asked.num_frames, asked.height, asked.width, 3)
    with decoded_by(vae) as own:
        assert np.abs(frames - of_diffusers(made)).max() <= 1  # of 256: a rounding
    torch.testing.assert_close(given, own, atol=1e-5, rtol=1e-5)
    assert len(own) == 1
    assert [step.number for step in steps] == list(range(1, len(steps) + 1)) and len(steps) > 1
    takes = [name for name in VISUAL if name in generator.takes]
    cells = {
        "frames": "same",
        "fps": f"{asked.fps:g}",
        "length": "exact",
        "takes beside text": ", ".join(takes) or "nothing",
    }
    if not generator.can_resume:
        cells |= dict.fromkeys(("resume", "preview"), f"no {note(generator.family.why)}")
    else:
        assert latents.shape == generator.latent_shape(asked)
        assert generator.decode(steps[0].heading(), asked.num_frames).shape == frames.shape
        kept = steps[-2]
        resumed, rest = draw(made, Start(kept.latents, kept.number, kept.state))
        assert torch.equal(resumed, latents) and [step.number for step in rest] == [len(steps)]
        cells |= {"resume": "to the bit", "preview": "yes"}
    page.compare(made.name, type(generator.pipeline).__name__, cells)


def bytes_of(parts: Iterable[object]) -> int:
    networks = [part for part in parts if isinstance(part, nn.Module)]
    return sum(each.nbytes for network in networks for each in network.parameters())


def note(text: str) -> str:
    """The mark of a note on the page that begins with a text."""
    (mark,) = [mark for mark, each in page.notes().items() if each.startswith(text)]
    return mark


def test_the_page_of_models_has_each_pipeline_and_a_reason_for_each_no(text, tmp_path):
    table, listed = page.rows(), set()
    for name in BUILDERS:
        pipeline = build(name, text, lambda part: part)
        kind, generator = type(pipeline).__name__, FamilyGenerator(pipeline)
        listed.add(kind)
        if name in COSMOS_BUILDERS:
            (package,) = generator.family.needs
            mark = note(f"The networks of Cosmos import {package}")
            assert set(table[page.label(name, kind)].values()) == {mark}
            continue
        assert not generator.is_trainable  # as a whole
        converted = kind in CONVERTIBLE
        cells = {
            "fine-tune": "converted (c)" if converted else f"no {note('`t2v finetune` trains')}"
        }
        if kind in TRAINED:
            cells["fine-tune"] = "LoRA"  # `test_finetune.py` trains one
        if type(pipeline.transformer).__name__ in page.PLANNED:
            cells["plan"] = "yes"
        else:
            cells["plan"] = f"in part {note('the parts that make sound')}"
            if name == "ltx2":
                saved = f"{tmp_path}/{name}"
                pipeline.save_pretrained(saved)
                asked = SampleConfig(model=saved, num_inference_steps=2, dtype="fp32", device="cpu")
                counted = estimate(asked, Size(1, 9, 32, 32, 16), UNKNOWN).weights
                assert 0 < counted < bytes_of(pipeline.components.values())
        page.compare(name, kind, cells)
    assert len(table) == len(BUILDERS)
    known = {name for family in FAMILIES for name in family.pipelines}
    untested = page.TEXT.partition("known by their record alone:")[2].partition("\n\n")[0]
    assert set(re.findall("`(\\w+)`", untested)) == known - listed
    for family in FAMILIES:
        assert family.name in page.TEXT


def test_each_family_says_its_rate_and_where_that_is_from():
    names = [name for family in FAMILIES for name in family.pipelines]
    assert len(names) == len(set(names)) and all(family.source for family in FAMILIES)
    assert family_of("LTXPipeline").fps == 25 and family_of("AllegroPipeline") is None


def test_settings_reach_calls_that_name_them_otherwise_and_guidance_a_guider(text, wake):
    sana = FamilyGenerator(build("sana", text, wake))
    assert sana.defaults.num_frames == 81 and "frames" in sana.parameters
    short = FamilyGenerator(build("kandinsky_i2v", text, wake))
    assert short.latent_shape(Request(**SIZE)) == (1, 4, 5, 2, 2)
    generator = FamilyGenerator(build("hunyuan_15", text, wake))
    assert generator.defaults.guidance_scale == 3
    asked = Request(**SIZE | {"num_frames": 5, "num_inference_steps": 1, "guidance_scale": 1.0})
    generator.check(PROMPT, asked)
    drawn = [
        generator.generate([(PROMPT, None)], replace(asked, guidance_scale=scale), [3])
        for scale in (1.0, 6.0)
    ]
    assert generator.pipeline.guider.guidance_scale == 6 and not torch.equal(*drawn)


@pytest.fixture
def wan(text, wake):
    return build("wan", text, wake)


def test_a_state_that_is_not_the_schedulers_is_refused(wan):
    generator = FamilyGenerator(wan)
    asked = replace(
        generator.defaults, height=16, width=16, num_frames=9, num_inference_steps=STEPS
    )
    made = Made("wan", generator, asked, None)
    kept = draw(made)[1][0]
    without = {name: each for name, each in kept.state.items() if not name.startswith("step.")}
    for state, fault in [
        (without, "lack what the scheduler remembers"),
        ({**kept.state, "random.0": torch.zeros(3, dtype=torch.uint8)}, "does not fit the pipe"),
        ({**kept.state, "scheduler._step_index:int": torch.tensor([99999])}, "does not fit the p"),
        (kept.state | {"scheduler.add_noise": torch.zeros(1)}, "which no scheduler remembers"),
    ]:
        with pytest.raises(UserError, match=fault):
            draw(made, Start(kept.latents, kept.number, state))
    assert "step" not in vars(wan.scheduler) and "forward" not in vars(wan.transformer)


@pytest.mark.parametrize(
    ("name", "changed", "fault"),
    [
        ("wan", {"height": 24}, "height=24: WanPipeline makes multiples of 16 pixels. Give 16 or"),
        ("wan_i2v", {}, "makes nothing of a prompt alone: give image, such as --image FILE"),
        ("wan_flf", {"image": CLIP[0]}, "also needs last_image, such as --last-image FILE"),
        ("ltx_i2v", {}, "makes nothing of a prompt alone: give image, such as --image FILE"),
        ("wan_v2v", {"strength": 0.7}, "prompt alone: give video, such as --video FILE"),
        ("wan_v2v", {"video": CLIP}, "edits a clip: say how far with strength=, such as 0.8"),
        (
            "wan_v2v",
            {"video": CLIP, "strength": 0.3, "num_inference_steps": 3},
            "and no whole one is left. Give num_inference_steps=4 or more",
        ),
        ("cosmos", {}, "needs torchvision, which is not installed: pip install torchvision"),
    ],
)
def test_what_cannot_work_is_said_before_it_begins(name, changed, fault, text, wake, monkeypatch):
    monkeypatch.setattr("t2v.families.generator.find_spec", lambda package: None)
    generator = FamilyGenerator(build(name, text, wake))
    asked = {"height": 32, "width": 32, "num_frames": 9} | changed
    seen = VisualInputs(video=asked.pop("video", None), image=asked.pop("image", None))
    with pytest.raises(UserError, match=fault):
        generator.check(PROMPT, replace(generator.defaults, **asked), seen)


def test_a_pipeline_takes_what_its_call_names_and_can_use(text, wake):
    for name, taken in {
        "wan": set(),
        "wan_5b_i2v": {"image"},
        "wan_i2v": {"image"},  # its CLIP sees one
        "wan_flf": {"image", "last_image"},
        "wan_v2v": {"video", "strength"},
        "vace": {"video", "mask", "reference_images"},
        "ltx_condition": {"image", "video"},  # strength is how surely they are kept
    }.items():
        assert FamilyGenerator(build(name, text, wake)).takes == taken


def test_a_clip_that_is_gone_on_from_is_followed_by_gray_where_a_mask_says_so():
    seen = VisualInputs(video=CLIP)
    given = arguments(seen, {"video", "mask"}, 5)
    assert [np.asarray(each).max() for each in given["video"]] == [9, 9, 9, 127, 127]
    assert [np.asarray(each).max() for each in given["mask"]] == [0, 0, 0, 255, 255]
    assert len(arguments(seen, {"video"}, 5)["video"]) == 3
    assert len(arguments(seen, {"video", "strength"}, 5)["video"]) == 5


def test_vace_and_ip_adapters_take_reference_pictures(text, wake):
    generator = FamilyGenerator(build("vace", text, wake))
    request = replace(generator.defaults, height=32, width=32, num_frames=9, num_inference_steps=2)
    shape = generator.latent_shape(request)
    made = {}
    for name, pictures in {"none": (), "one": (CLIP[0],), "two": (CLIP[0], 255 - CLIP[1])}.items():
        seen = VisualInputs(reference_images=pictures)
        shown = []
        made[name] = generator.generate(
            [(PROMPT, seen)], request, [0], lambda step, keep=shown: keep.append(step.latents.shape)
        )
        assert made[name].shape == shape and {*shown} <= {shape}  # theirs are not the video's
    assert not torch.equal(made["none"], made["one"])
    assert not torch.equal(made["one"], made["two"])
    own = generator.pipeline(
        PROMPT, height=32, width=32, num_frames=9, num_inference_steps=2, output_type="latent",
        reference_images=[Image.fromarray(CLIP[0])], generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip
    assert torch.equal(made["one"], own[:, :, 1:])
    with pytest.raises(UserError, match="once for each picture"):
        generator.check("<image> rolls", request)
    with pytest.raises(UserError, match="Make it again by its recipe"):
        generator.generate([(PROMPT, seen)], request, [0], start=object())


def test_a_loaded_ip_adapter_is_given_the_pictures_of_one_adapter():
    unet = SimpleNamespace(config={"encoder_hid_dim_type": "ip_image_proj"})
    seen = VisualInputs(reference_images=[CLIP[0], CLIP[1]])
    with_adapter, without = SimpleNamespace(unet=unet), SimpleNamespace()
    names = {"prompt", "ip_adapter_image"}
    assert takes(with_adapter, names) == {"reference_images"} and takes(without, names) == set()
    ((pictures,),) = references(with_adapter, seen, names).values()
    assert [np.array_equal(each, CLIP[n]) for n, each in enumerate(pictures)] == [True, True]
    assert references(without, seen, names) == {}
