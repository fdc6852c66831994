"""Stories: windows that go on from each other, exact lengths, and each way to join them."""

import pytest
import torch
from einops import rearrange

from t2v.config.prompting import PromptingConfig
from t2v.config.story import WindowsConfig
from t2v.errors import UserError
from t2v.models.latents import denormalize_latents
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.generator import Request
from t2v.pipelines.known import encode_frames
from t2v.pipelines.story import Film, LatentWindows, Scene, plan_windows
from t2v.pipelines.t2v import T2VPipeline

PROMPTS = ["a red ball rolls", "the blue box bounces", "a red ball under sky"]


@pytest.fixture
def known(pipe):
    """The tiny pipeline, that takes known latents and pictures."""
    pipe.transformer.take_known(picture_tokens=True)
    torch.nn.init.normal_(pipe.transformer.picture_embedding)  # zeros would hide mistakes
    return pipe


def call(pipe, prompts=PROMPTS, seconds=(1.5, 1.5, 1.0), seed=3, **options):
    options.setdefault("windows", WindowsConfig(overlap=1))  # of windows of 9 frames
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompts, scene_seconds=seconds, generator=generator, output_type="pt", **options)


def maker(pipe, **config) -> LatentWindows:
    request = Request(
        height=32, width=48, num_frames=9, fps=8, num_inference_steps=2, guidance_scale=4.0
    )
    return LatentWindows(pipe, request, WindowsConfig(**{"overlap": 1, **config}))


def made(windows: LatentWindows, scenes: list[Scene], seed=3):
    """Plan, latents and frames of a story."""
    film, plan, latents, frames = Film(), windows.plan(scenes), [], []
    for window in plan:
        latents.append(windows.make(scenes[window.scene], window, film, seed))
        frames.append(windows.show(window, film, latents[-1]))
    return plan, latents, frames


@pytest.mark.parametrize("lengths", [(9,), (1, 1, 1), (12, 12, 8), (33, 3, 16), (2, 40)])
@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("as_latents", [True, False])
def test_the_windows_of_a_plan_show_every_frame_once(lengths, overlap, as_latents):
    scenes = [Scene("a", length, is_cut=i == 1) for i, length in enumerate(lengths)]
    plan = plan_windows(scenes, 17, 4, overlap, as_latents=as_latents)
    shown = [frame for each in plan for frame in range(each.first, each.first + each.frames)]
    assert shown == list(range(sum(lengths)))
    assert all(each.known % 4 == 1 and each.known <= 4 * overlap + 1 for each in plan if each.known)
    starts = {sum(lengths[:i]) for i in range(len(lengths))}
    assert starts <= {each.first for each in plan}
    cuts = {0} | ({lengths[0]} if len(lengths) > 1 else set())
    assert {each.first for each in plan if not each.known} == cuts


def test_frames_behind_a_cut_are_given_and_none_before_it():
    scenes = [Scene("a", 20), Scene("b", 3, is_cut=True), Scene("c", 9)]
    plan = plan_windows(scenes, 17, 4, 2, as_latents=True)
    assert [(each.first, each.known, each.goes_on) for each in plan] == [
        (0, 0, False),
        (17, 9, True),
        (20, 0, False),
        (23, 1, False),  # of the three frames since the cut, 4k + 1
    ]


def test_a_story_of_one_window_is_the_plain_video_to_the_bit(known):
    plain = known(PROMPTS[0], generator=torch.Generator().manual_seed(3), output_type="pt")
    story = call(known, PROMPTS[:1], [9 / 8])
    assert torch.equal(story.frames, plain.frames)


def test_a_story_has_the_frames_of_its_seconds_and_repeats_to_the_bit(known):
    story = call(known, seconds=(1.3, 1.3, 0.1))
    assert story.frames.shape == (1, 22, 3, 32, 48)  # 2.7 s at 8 fps; 10.4 and 20.8 are rounded
    assert torch.equal(call(known, seconds=(1.3, 1.3, 0.1)).frames, story.frames)
    assert not torch.equal(call(known, seconds=(1.3, 1.3, 0.1), seed=4).frames, story.frames)


def test_a_prompt_changes_its_scene_and_those_after_it(known):
    story = call(known).frames
    other = call(known, [PROMPTS[0], "a red box", PROMPTS[2]]).frames
    assert torch.equal(other[:, :12], story[:, :12])
    for span in (slice(12, 24), slice(24, 32)):
        assert not torch.equal(other[:, span], story[:, span])


def test_windows_are_given_the_latents_before_them_behind_the_frame_before_those(known):
    plan, latents, frames = made(maker(known, overlap=1), [Scene(PROMPTS[0], 21)])
    assert [each.goes_on for each in plan] == [False, True, True, True]
    film = torch.cat(frames)
    for before, after, window in zip(latents, latents[1:], plan[1:], strict=False):
        assert torch.equal(after[:, :, 1:2], before[:, :, -1:])
        lead = encode_frames(known.vae, film[window.first - 5 :][:1])
        assert torch.equal(after[:, :, :1], lead)


def test_the_frames_are_those_of_one_decoding_of_all_latents(known):
    _, latents, frames = made(maker(known, overlap=1), [Scene(PROMPTS[0], 21)])
    chain = torch.cat([latents[0], *(each[:, :, 2:] for each in latents[1:])], dim=2)
    whole = known.vae.decode(denormalize_latents(chain, known.vae.config)).sample
    whole = rearrange(whole / 2 + 0.5, "1 c t h w -> t c h w").clamp(0, 1)
    torch.testing.assert_close(torch.cat(frames), whole[:21], atol=1e-5, rtol=1e-5)


def test_a_scene_that_begins_inside_a_latent_is_given_its_frames(known):
    scenes = [Scene(PROMPTS[0], 7), Scene(PROMPTS[1], 4)]
    plan, latents, frames = made(maker(known, overlap=1), scenes)
    assert [each.goes_on for each in plan] == [False, False]
    tail = torch.cat(frames)[2:7]
    assert torch.equal(latents[1][:, :, :2], encode_frames(known.vae, tail))


def test_frames_instead_of_latents_may_be_given(known):
    scenes = [Scene(PROMPTS[0], 21)]
    plan, latents, frames = made(maker(known, overlap=1, known="frames"), scenes)
    assert not any(each.goes_on for each in plan)
    tail = torch.cat(frames[:2])[-5:]
    assert torch.equal(latents[2][:, :, :2], encode_frames(known.vae, tail))


@pytest.mark.parametrize(
    "option",
    [
        {"overlap": 0},
        {"strength": 0.5},
        {"noise": "inverted"},
        {"lag": 1},
        {"anchor": True},
        {"known": "frames"},
        {"frames": 13},
    ],
    ids=str,
)
def test_every_option_of_windows_changes_the_film(known, option):
    story = call(known, PROMPTS[:1], [2.5]).frames
    other = call(
        known, PROMPTS[:1], [2.5], windows=WindowsConfig(**{"overlap": 1, **option})
    ).frames
    assert other.shape == story.shape and torch.isfinite(other).all()
    assert not torch.equal(other, story)


def test_a_picture_is_the_first_frame_and_a_cut_forgets_what_was_before(known):
    picture = torch.rand(3, 32, 48)
    scenes = [Scene(PROMPTS[0], 12), Scene(PROMPTS[1], 12, is_cut=True, image=picture)]
    plan, latents, _ = made(maker(known), scenes)
    cut = next(i for i, each in enumerate(plan) if each.scene == 1)
    assert torch.equal(latents[cut][:, :, :1], encode_frames(known.vae, picture[None]))
    others = [Scene(PROMPTS[2], 12), scenes[1]]
    assert torch.equal(made(maker(known), others)[1][cut], latents[cut])


def test_what_is_kept_of_a_film_does_not_grow(known):
    windows, film, sizes = maker(known, overlap=1), Film(), []
    scenes = [Scene(PROMPTS[0], 41)]
    for window in windows.plan(scenes):
        windows.show(window, film, windows.make(scenes[0], window, film, 0))
        caches = [each for cache in film.stream.caches for each in cache.past.values()]
        sizes.append([film.tail.numel(), film.latents.numel(), sum(map(torch.numel, caches))])
    assert len(sizes) == 9 and all(each == sizes[1] for each in sizes[1:])


def test_the_signs_of_a_call_s_prompts_are_read(known):
    signs = {"prompting": PromptingConfig(syntax=True)}
    plain = call(known).frames
    assert torch.equal(call(known, [f"({each}:1)" for each in PROMPTS], **signs).frames, plain)
    joined = [*PROMPTS[:2], f"{PROMPTS[2]} AND {PROMPTS[0]}"]
    shown = call(known, joined, **signs).frames
    assert torch.equal(shown[:, :24], plain[:, :24]) and not torch.equal(shown, plain)
    long = " AND ".join(["a red ball rolls on the blue snow"] * 3)  # its negative one is masked
    once = {"num_frames": 9, "guidance_scale": 4, "output_type": "pt", **signs}
    alone = known(long, generator=torch.Generator().manual_seed(3), **once).frames
    told = call(known, [long], [9 / 8], guidance_scale=4, **signs).frames
    assert torch.equal(told, alone)
    with pytest.raises(UserError, match=r"scene 3: prompt .* has times"):
        call(known, [*PROMPTS[:2], "[0-1s] a [1-2s] b"], **signs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": (1, 1)}, "scene_seconds has 2 lengths and prompt 3"),
        ({"seconds": (1, 0, 1)}, "scene_seconds=0: give more than 0"),
        ({"num_frames": 9}, "num_frames beside scene_seconds"),
        ({"num_videos_per_prompt": 2}, "num_videos_per_prompt beside scene_seconds"),
        ({"windows": WindowsConfig(overlap=2)}, "Give frames of at least 13"),
        ({"windows": WindowsConfig(frames=10)}, "4k \\+ 1"),
    ],
)
def test_an_error_says_what_a_story_takes(known, options, message):
    with pytest.raises(UserError, match=message):
        call(known, **options)


def test_a_model_of_text_alone_makes_cuts_within_a_window_only(pipe):
    with pytest.raises(UserError, match="scene 1 goes on from frames or a picture"):
        call(pipe)
    assert call(pipe, PROMPTS[:1], [1.0]).frames.shape[1] == 8


def of_wan(pipe, wan, **config):
    """The tiny pipeline with the VAE of Wan, which cannot be decoded piece by piece."""
    keywords = {**pipe.transformer.config, "in_channels": 16, "out_channels": 16, **config}
    transformer = T2VTransformer3DModel(
        **{name: each for name, each in keywords.items() if not name.startswith("_")}
    )
    for number, parameter in enumerate(transformer.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data = noise / 8
    parts = {**pipe.components, "vae": wan.vae.eval(), "transformer": transformer.eval()}
    made = T2VPipeline(**parts, **{name: pipe.config[name] for name in SAVED})
    made.set_progress_bar_config(disable=True)
    return made


SAVED = (
    *("fps", "height", "width", "num_frames", "num_inference_steps", "guidance_scale"),
    "max_sequence_length",
)


@pytest.mark.parametrize(
    "config",
    [{"conditioning": "tokens"}, {"conditioning": "channels", "in_channels": 36}],
    ids=["tokens", "channels"],
)
def test_a_model_that_takes_no_latents_is_given_frames(pipe, wan, config):
    windows = maker(of_wan(pipe, wan, **config))
    picture = torch.rand(3, 32, 48)
    scenes = [Scene(PROMPTS[0], 15, image=picture)]
    plan, _, frames = made(windows, scenes)
    assert [(each.first, each.known, each.goes_on) for each in plan] == [
        (0, 0, False),
        (9, 5, False),
        (13, 5, False),
    ]
    film = torch.cat(frames)
    assert film.shape == (15, 3, 32, 48)
    others = torch.cat(made(windows, [Scene(PROMPTS[0], 15, image=1 - picture)])[2])
    assert not torch.equal(others[9:], film[9:])


def test_an_endless_story_is_refused_before_its_windows_are_counted():
    with pytest.raises(UserError, match="A story of 8,000,000,000 frames: at most 10,000,000"):
        plan_windows([Scene("a", 8 * 10**9)], 17, 4, 1, as_latents=True)
