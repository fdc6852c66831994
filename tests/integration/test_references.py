"""Reference pictures from manifest to command: trained on, sampled with, repeated, judged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2v.cli import main
from t2v.config.data import ClipsConfig
from t2v.config.load import load_config
from t2v.config.story import WindowsConfig
from t2v.config.training import TasksConfig
from t2v.config.world import WorldClipsConfig
from t2v.data.retrieval import CaptionIndex, retrieved
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.rows import MODEL, REAL
from t2v.evaluation.suites import load_suite
from t2v.io.video import read_recipe, read_video
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.tasks.dit import build_dit, train_dit
from t2v.world.grammar import SHAPES
from t2v.world.run import render_world

CLIPS = WorldClipsConfig(
    output="", count=24, num_frames=9, height=16, width=16, workers=1, references=True
)


@pytest.fixture(scope="module")
def shown_clips(tmp_path_factory) -> Path:
    """Clips of one ball and one cube, two of each, and of things that no other clip shows."""
    folder = tmp_path_factory.mktemp("references") / "clips"
    render_world(replace(CLIPS, output=str(folder)))
    manifest = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    subjects = [["red ball"], ["blue cube"], ["red ball", "blue cube"], ["green star"]]
    for number, row in enumerate(rows):
        row["subjects"] = subjects[number % 4]
        row["referring"] = ["it moves"]
    rows[3]["subjects"] = ["pink ring"]  # alone
    del rows[4]["referring"]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def reference_config(dit_config, shown_clips):
    model = replace(dit_config.model, conditioning="tokens", picture_tokens=True, references=2)
    tasks = TasksConfig(text=0, references=1)
    return replace(dit_config, data=str(shown_clips), model=model, tasks=tasks, caption_dropout=0.0)


def test_a_reference_is_the_first_frame_of_another_clip_of_the_subject(reference_config):
    task = build_dit(reference_config)
    rows, items = task.data.rows, task.data.items
    firsts = {n: task._latents(each)[:, :, 0] for n, each in enumerate(task.data.training(1))}
    own = {tuple(task.data.training(1)[n].indices.tolist()): first for n, first in firsts.items()}
    seen = set()
    for step in range(24):
        batch = task.data.train.batch(step)
        given, whole = task.references.added(
            task.read(step).given, batch, keyed_generator(0, step, "test")
        )
        k = given.references.shape[2]
        assert k in (1, 2)
        for row, item in enumerate(batch.indices.tolist()):
            subjects = rows[items[item].clip].get("subjects")
            for place in range(k):
                picture = given.references[row, :, place]
                found = [n for (n,), first in own.items() if torch.equal(first[0], picture)]
                if subjects == ["pink ring"]:
                    assert not picture.any() and not whole[row]
                    continue
                (other,) = found
                assert items[other].clip != items[item].clip  # itself would be a leak
                wanted = subjects[place % len(subjects)]
                assert wanted in rows[items[other].clip]["subjects"]
                seen.add(wanted)
            if subjects != ["pink ring"]:
                assert bool(whole[row]) == (len(subjects) <= k)
    assert seen == {"red ball", "blue cube", "green star"}


def test_captions_leave_the_subjects_open_only_where_pictures_show_them_all(reference_config):
    task = build_dit(reference_config)
    for step in range(12):
        batch = task.read(step)
        items = task.data.train.batch(step)
        k = batch.given.references.shape[2]
        for row, item in enumerate(items.indices.tolist()):
            about = task.data.rows[task.data.items[item].clip]
            text = task.tokenizer.decode(batch.tokens[row, : batch.lengths[row] - 1])
            is_open = "referring" in about and about["subjects"] != ["pink ring"]
            is_open &= len(about["subjects"]) <= k
            allowed = ["it moves"] if is_open else about["captions"]
            expected = [
                task.tokenizer.decode(task.tokenizer(each).input_ids[:-1]) for each in allowed
            ]
            assert text in expected
    again = [build_dit(reference_config).read(step).given.references for step in range(3)]
    for step, references in enumerate(again):
        assert torch.equal(references, task.read(step).given.references)


def test_a_trained_model_keeps_that_it_takes_them_and_resumes_to_the_bit(reference_config):
    whole = train_dit(reference_config)
    halves = replace(reference_config, output=reference_config.output + "-halves", steps=2)
    train_dit(halves)
    again = train_dit(replace(halves, steps=4))
    one, other = (T2VPipeline.from_pretrained(each) for each in (whole, again))
    assert one.transformer.config.references == 2
    for a, b in zip(one.transformer.parameters(), other.transformer.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.transformer.picture_embedding.abs().sum() > 0  # it learned


def test_data_without_two_clips_of_a_subject_is_refused(reference_config, clips):
    manifest = clips / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row | {"subjects": [f"thing {number}"]} for number, row in enumerate(rows)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="no two clips show the same subject"):
        build_dit(replace(reference_config, data=str(clips)))
    with pytest.raises(UserError, match=r"model.references=0. Set model.references=2"):
        replace(reference_config, model=replace(reference_config.model, references=0))


def test_without_subjects_the_nearest_captions_of_other_files_are_shown(reference_config, media):
    config = replace(
        reference_config,
        data=str(media),
        clips=ClipsConfig(fps=8, resolution=32, num_frames=9, workers=1),
        held_out=2,
    )
    task = build_dit(config)
    rows, items = task.data.rows, task.data.items
    assert task.references.index is not None
    shown = 0
    for item in range(task.data.count):
        own = rows[items[item].clip]
        for other in task.references._nearest(item):
            found = rows[items[other].clip]
            assert found["path"] != own["path"]  # itself, or its film, would be a leak
            assert {*" ".join(found["captions"]).split()} & {*" ".join(own["captions"]).split()}
            shown += 1
    assert shown
    assert task.read(0).given.references is not None


def test_examples_of_a_prompt_are_the_nearest_captions(media, shown_clips):
    (picture,) = retrieved("a box on the snow", media)
    with Image.open(media / "one.png") as one:
        assert picture.size == one.size
    assert [each.size for each in retrieved("it moves", shown_clips, 3)] == [(16, 16)] * 3
    assert len(retrieved("ball", media, 50)) < 50
    with pytest.raises(UserError, match="captions shares a word with 'zebra'"):
        retrieved("zebra", media)
    index = CaptionIndex(["a red ball", "a blue cube", "the red red ball rolls"])
    assert index.nearest("red ball", 2) == [0, 2] or index.nearest("red ball", 2) == [2, 0]
    assert index.nearest("red ball", 3, excluded=(0,)) == [2] and index.nearest("", 3) == []


def test_the_world_writes_subjects_and_captions_that_do_not_say_them(tmp_path):
    render_world(replace(CLIPS, output=str(tmp_path / "with")))
    render_world(replace(CLIPS, output=str(tmp_path / "plain"), references=False))
    rows, plain = (
        [json.loads(line) for line in (tmp_path / name / "manifest.jsonl").read_text().splitlines()]
        for name in ("with", "plain")
    )
    for row, before in zip(rows, plain, strict=True):
        subjects, referring = row.pop("subjects"), row.pop("referring", None)
        assert row == before  # clips and captions are those of before
        things = [f"{thing['colour']} {thing['shape']}" for thing in row["truth"]["things"]]
        assert set(subjects) == set(things)
        alike = len(row["truth"]["things"]) > len({str(t) for t in row["truth"]["things"]})
        assert (referring is None) == alike
        for text in referring or ():
            assert not set(" ".join(subjects).split()) & set(text.split()), text


@pytest.fixture
def model(pipe, tmp_path) -> str:
    pipe.transformer.take_known(picture_tokens=True, references=2)
    generator = torch.Generator().manual_seed(7)
    torch.nn.init.normal_(pipe.transformer.picture_embedding, std=0.3, generator=generator)
    pipe.register_to_config(max_sequence_length=32)
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("a, b.png", "c.png"):
        Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(name)

    def run(*argv):
        code = main(["sample", *argv])
        return code, capsys.readouterr().err

    return run


def frames_of(path: str) -> np.ndarray:
    return read_video(Path(path))[0]


def test_the_command_reads_hashes_repeats_and_refuses(run, model):
    references = ["--reference", "a, b.png", "--reference", "c.png"]
    code, err = run("<image> meets <image>", *references, "--model", model, "-o", "x.mp4")
    assert code == 0, err
    recipe = read_recipe(Path("x.mp4"))
    assert sorted(recipe["inputs"]) == ["reference_images[0]", "reference_images[1]"]
    assert recipe["prompt"] == "<image> meets <image>"
    code, err = run("it meets it", "--model", model, "-o", "y.mp4")
    assert code == 0, err
    assert (frames_of("x.mp4") != frames_of("y.mp4")).any()
    assert run("--recipe", "x.mp4")[0] == 0
    assert (frames_of("x-again.mp4") == frames_of("x.mp4")).all()
    for argv, message in (
        (["<image>", *references], "has 2 pictures"),
        (["it", "--reference", "none.png"], "reference_images[0]=none.png: cannot be read"),
        (["it", "--reference", "x.json"], "reference_images[0]=x.json"),
        (["it", *references, "--reference", "c.png"], "3 given"),
    ):
        code, err = run(*argv, "--model", model, "-o", "z.mp4")
        assert code == 2 and "video 1/1" not in err, err
        assert message in err or "once for each picture" in err, err
        assert not Path("z.mp4").exists()
    Path("c.png").write_bytes(Path("a, b.png").read_bytes())
    code, err = run("--recipe", "x.mp4")
    assert code == 2 and "reference_images[1]=c.png: not the file it was" in err


def test_the_suite_judges_what_the_prompt_does_not_say(run, model, tmp_path):
    words = ["suites=[reference]", "count=2", "perceptual=null", "num_inference_steps=1"]
    assert main(["eval", model, "output=judged", "guidance_scale=1", *words]) == 0
    suite = json.loads((tmp_path / "judged" / "eval.json").read_text())["suites"]["reference"]
    assert {MODEL, REAL} <= set(suite["tables"]["dynamics"]) and len(suite["videos"]) == 2
    made = load_suite("reference", 8, 0)
    for scene, shown, prompt in zip(made.scenes, made.sources, made.prompts, strict=True):
        (thing,), (other,) = scene.things, shown.things
        assert (thing.shape, thing.colour) == (other.shape, other.colour)
        assert scene.background != shown.background  # where it stood is no answer
        said = set(prompt.split())
        assert not said & {*SHAPES[thing.shape][0][0].split(), thing.colour}, prompt


def test_the_config_that_trains_it_is_valid():
    from t2v.config.training import TrainDiTConfig

    path = Path(__file__).parents[2] / "configs" / "train" / "references.yaml"
    assert load_config(TrainDiTConfig, path, []).tasks.references == 0.5


STORY = """scenes:
  - {prompt: "<image> rolls on the grass", seconds: 0.8}
  - {prompt: "it bounces", seconds: 0.8, start: cut}
  - {prompt: "it rolls", seconds: 0.8}
windows: {overlap: 1}
"""


def test_every_scene_of_a_story_sees_the_subjects(run, model, tmp_path):
    (tmp_path / "story.yaml").write_text(STORY)
    words = ["--story", "story.yaml", "--model", model, "--reference"]
    code, err = run(*words, "c.png", "-o", "one.mp4")
    assert code == 0, err
    assert sorted(read_recipe(Path("one.mp4"))["inputs"]) == ["reference_images[0]"]
    whole = frames_of("one.mp4")
    assert run(*words, "c.png", "-o", "two.mp4")[0] == 0
    assert (frames_of("two.mp4") == whole).all()
    code, err = run("--recipe", "one.mp4")
    assert code == 0, err
    assert (frames_of("one-again.mp4") == whole).all()
    assert run(*words, "a, b.png", "-o", "other.mp4")[0] == 0
    other, third = frames_of("other.mp4"), len(whole) // 3
    for first in (0, third, 2 * third):
        scene = slice(first, first + third)
        assert (other[scene] != whole[scene]).any()
    code, err = run(*words, "c.png", "--reference", "c.png", "-o", "no.mp4")
    assert code == 2 and "scene 1" in err and "2 pictures" in err
    Path("c.png").write_bytes(Path("a, b.png").read_bytes())
    assert run("--recipe", "one.mp4")[0] == 2


def test_a_call_with_scenes_sees_the_subjects(model):
    pipe = T2VPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    grey = [np.full((8, 8, 3), level, np.uint8) for level in (40, 200)]
    windows = WindowsConfig(overlap=1)
    about = {"scene_seconds": [1.0, 1.0], "height": 16, "width": 16, "windows": windows}
    one, other, none = (
        pipe(
            ["it rolls", "it bounces"],
            generator=torch.Generator().manual_seed(0),
            reference_images=pictures,
            **about,
        ).frames
        for pictures in ([grey[0]], [grey[1]], [])
    )
    assert one.shape == other.shape and (one != other).any() and (one != none).any()
    with pytest.raises(UserError, match="3 given"):
        pipe(["a", "b"], reference_images=[*grey, grey[0]], **about)
