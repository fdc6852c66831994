"""The grammar of the world: random scenes, their captions and their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# one thing and several
SHAPES = {
    "ball": (("ball", "balls"), ("sphere", "spheres")),
    "cube": (("cube", "cubes"), ("box", "boxes"), ("block", "blocks")),
    "pyramid": (("pyramid", "pyramids"),),
    "star": (("star", "stars"),),
    "ring": (("ring", "rings"), ("hoop", "hoops"), ("donut", "donuts")),
    "heart": (("heart", "hearts"),),
}
COLOURS = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
}
SIZES = {"small": ("small", "tiny", "little"), "medium": ("",), "big": ("big", "large", "huge")}
# what one thing does and what several do
MOTIONS = {
    "still": (("rests", "rest"), ("sits", "sit"), ("lies", "lie"), ("stands still", "stand still")),
    "bounce": (("bounces", "bounce"), ("hops", "hop"), ("jumps up and down", "jump up and down")),
    "left": (
        ("moves left", "move left"),
        ("slides to the left", "slide to the left"),
        ("rolls left", "roll left"),
        ("glides to the left", "glide to the left"),
    ),
    "right": (
        ("moves right", "move right"),
        ("slides to the right", "slide to the right"),
        ("rolls right", "roll right"),
        ("glides to the right", "glide to the right"),
    ),
    "rise": (("rises", "rise"), ("floats up", "float up"), ("goes up", "go up")),
    "fall": (("falls", "fall"), ("drops down", "drop down"), ("comes down", "come down")),
    "spin": (("spins", "spin"), ("turns around", "turn around"), ("rotates", "rotate")),
    "grow": (("grows", "grow"), ("gets bigger", "get bigger"), ("becomes larger", "become larger")),
    "shrink": (
        ("shrinks", "shrink"),
        ("gets smaller", "get smaller"),
        ("becomes smaller", "become smaller"),
    ),
}
DIRECTIONS = ("left", "right", "rise", "fall")  # the motions that go somewhere
BACKGROUNDS = {
    "grass": ("on grass", "on the grass", "in a meadow", "on a green field"),
    "sand": ("on sand", "on the beach", "in the desert"),
    "snow": ("in the snow", "on snow", "on a snowy field", "in winter"),
    "sea": ("on the sea", "on the water", "over the ocean"),
    "night": ("at night", "under the stars", "under a night sky"),
    "sunset": ("at sunset", "at dusk", "in the evening light"),
}
CAMERAS = {
    "still": ("",),
    "pan left": ("the camera pans left", "the camera moves to the left"),
    "pan right": ("the camera pans right", "the camera moves to the right"),
    "zoom in": ("the camera zooms in", "the camera moves closer"),
    "zoom out": ("the camera zooms out", "the camera moves away"),
}
# motion in a unit of time, and words before and after the verb
SPEEDS: dict[str, tuple[float, tuple[str, ...], tuple[str, ...]]] = {
    "normal": (1.0, (), ()),
    "slow": (0.5, ("slowly",), ("slowly",)),
    "fast": (1.5, ("quickly",), ("quickly", "fast")),
}
# how often a thing hops in a clip, which then rests
REPEATS = {1: ("once",), 2: ("twice", "two times"), 3: ("three times",)}
UNNAMED = ("it", "something", "the thing")
PREFIXES = ("", "", "", "", "a video where ", "a clip where ")
NUMBERS = {2: ("two", "a pair of"), 3: ("three",)}
UNSPUN = ("ball", "ring")  # turning them shows nothing
PAIR_MOTIONS = ("still", "bounce", "rise", "fall", "spin")  # keep neighbours apart
CAMERA_MOTIONS = ("still", "bounce", "spin")  # what else moves stays readable


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object; each field is a key of the table of its name."""

    shape: str
    colour: str
    size: str
    motion: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of one clip, and the little that its caption leaves open.

    `things` stand from left to right in the order the caption names them. `offset` moves them
    sideways and `backdrop` moves the landscape, both in [-1, 1] of their range. `speed` is a key
    of `SPEEDS`; it is of the things, not of the camera. A thing that hops `times` times, a key of
    `REPEATS`, rests before and after; `pause`, in [0, 1], is the part of the rest that comes
    before. Where `collage` is the seed of a made-up
    picture, this takes the place of `background`, and things that are not `named` have colours and
    outlines of its making; no caption tells of either.
    """

    things: tuple[Thing, ...]
    background: str
    camera: str
    offset: float = 0.0
    backdrop: float = 0.0
    speed: str = "normal"
    times: int | None = None
    pause: float = 0.0
    collage: int | None = None
    named: bool = True

    def truth(self) -> dict[str, Any]:
        """Every attribute that the oracle classifies, an unusual speed and a number of hops."""
        known: dict[str, Any] = {
            "background": self.background,
            "camera": self.camera,
            "count": len(self.things),
            "things": [asdict(thing) for thing in self.things],
        }
        if self.collage is not None:
            known["background"], known["collage"] = None, self.collage
        if not self.named:
            for thing in known["things"]:
                thing["shape"] = thing["colour"] = None
        if self.times is not None:
            known["times"] = self.times
        return known if self.speed == "normal" else known | {"speed": self.speed}


def pick(options: Sequence[T], generator: torch.Generator) -> T:
    """Pick one of `options`, uniformly."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def is_heldout(thing: Thing) -> bool:
    """Return whether this shape, colour and motion together are held out of training (1 in 8)."""
    shape, colour, motion = (
        list(table).index(word)
        for table, word in (
            (SHAPES, thing.shape),
            (COLOURS, thing.colour),
            (MOTIONS, thing.motion),
        )
    )
    return (3 * shape + 5 * colour + motion) % 8 == 0


def random_thing(motions: Sequence[str], sizes: Sequence[str], generator: torch.Generator) -> Thing:
    """Pick a thing with one of the given motions and sizes that its shape can show."""
    shape = pick(list(SHAPES), generator)
    motion = pick([m for m in motions if m != "spin" or shape not in UNSPUN], generator)
    # growing and shrinking pass through every size, so no size word would be true
    size = "medium" if motion in ("grow", "shrink") else pick(sizes, generator)
    return Thing(shape=shape, colour=pick(list(COLOURS), generator), size=size, motion=motion)


def _random_things(camera: str, generator: torch.Generator) -> tuple[Thing, ...]:
    kind = float(torch.rand((), generator=generator))
    if camera != "still" or kind < 0.55:
        motions = list(MOTIONS) if camera == "still" else CAMERA_MOTIONS
        return (random_thing(motions, list(SIZES), generator),)
    first = random_thing(PAIR_MOTIONS, ("medium",), generator)
    if kind < 0.87:
        second = random_thing(PAIR_MOTIONS, ("medium",), generator)
        return first, second
    return (first,) * (2 if kind < 0.94 else 3)


def random_scene(generator: torch.Generator, split: str = "train") -> Scene:
    """Pick a scene: `train` never holds a held-out combination, `heldout` at least one."""
    while True:
        moving = float(torch.rand((), generator=generator)) < 0.25
        chosen = pick(list(CAMERAS)[1:], generator) if moving else "still"
        things = _random_things(chosen, generator)
        if any(map(is_heldout, things)) == (split == "heldout"):
            break
    offset, backdrop = (2 * torch.rand(2, generator=generator) - 1).tolist()
    return Scene(
        things=things,
        background=pick(list(BACKGROUNDS), generator),
        camera=chosen,
        offset=offset,
        backdrop=backdrop,
    )


def random_paced_scene(generator: torch.Generator, split: str = "train") -> Scene:
    """Pick a scene of one moving thing that is slow or fast."""
    while True:
        scene = random_scene(generator, split)
        if len(scene.things) == 1 and scene.camera == "still" and scene.things[0].motion != "still":
            return replace(scene, speed=pick(list(SPEEDS)[1:], generator))


def random_repeated_scene(generator: torch.Generator, split: str = "train") -> Scene:
    """Pick a scene of one thing that hops once, twice or three times."""
    while True:
        scene = random_scene(generator, split)
        bounces = [thing.motion for thing in scene.things] == ["bounce"]
        if bounces and scene.camera == "still":
            pause = float(torch.rand((), generator=generator))
            return replace(scene, times=pick(list(REPEATS), generator), pause=pause)


def random_collage_scene(generator: torch.Generator, split: str = "train") -> Scene:
    """Pick a scene in a made-up picture; a single thing in it has a name every other time."""
    scene = random_scene(generator, split)
    seed = int(torch.randint(2**31, (), generator=generator))
    named = len(scene.things) > 1 or float(torch.rand((), generator=generator)) < 0.5
    return replace(scene, collage=seed, named=named)


def _noun(thing: Thing, number: int, generator: torch.Generator) -> str:
    one, several = pick(SHAPES[thing.shape], generator)
    words = pick(SIZES[thing.size], generator), pick(COLOURS[thing.colour], generator)
    phrase = " ".join(word for word in (*words, one if number == 1 else several) if word)
    if number == 1:
        return ("an " if phrase[0] in "aeiou" else "a ") + phrase
    return f"{pick(NUMBERS[number], generator)} {phrase}"


def _action(scene: Scene, generator: torch.Generator) -> str:
    first, *others = scene.things
    singular, plural = pick(MOTIONS[first.motion], generator)
    if not others:
        noun = _noun(first, 1, generator) if scene.named else pick(UNNAMED, generator)
        verb = _paced(singular, scene.speed, generator)
        return f"{noun} {verb}{_repeated(scene.times, generator)}"
    if not scene.named and all(other != first for other in others):
        nouns = pick(UNNAMED, generator), pick(UNNAMED, generator)
        link = pick(("and", "while"), generator)
        verbs = singular, pick(MOTIONS[others[0].motion], generator)[0]
        return f"{nouns[0]} {verbs[0]} {link} {nouns[1]} {verbs[1]}"
    if all(other == first for other in others):
        return f"{_noun(first, len(scene.things), generator)} {plural}"
    second = others[0]
    nouns = _noun(first, 1, generator), _noun(second, 1, generator)
    if second.motion == first.motion:
        return f"{nouns[0]} and {nouns[1]} {plural}"
    link = pick(("and", "while"), generator)
    return f"{nouns[0]} {singular} {link} {nouns[1]} {pick(MOTIONS[second.motion], generator)[0]}"


def _paced(verb: str, speed: str, generator: torch.Generator) -> str:
    """Put a word of speed before or after a verb."""
    if speed == "normal":
        return verb
    _, before, after = SPEEDS[speed]
    options = [f"{word} {verb}" for word in before] + [f"{verb} {word}" for word in after]
    return pick(options, generator)


def _repeated(times: int | None, generator: torch.Generator) -> str:
    return "" if times is None else f" {pick(REPEATS[times], generator)}"


def caption(scene: Scene, generator: torch.Generator) -> str:
    """Pick one of many English sentences that describe the scene, and nothing that is not in it."""
    action, place = _action(scene, generator), pick(BACKGROUNDS[scene.background], generator)
    camera = pick(CAMERAS[scene.camera], generator)
    ending = f", {camera}" if camera else ""
    if scene.collage is not None:
        return f"{pick(PREFIXES, generator)}{action}{ending}"
    if pick((False, False, False, True), generator):
        return f"{place}, {action}{ending}"
    return f"{pick(PREFIXES, generator)}{action} {place}{ending}"


def referring_caption(scene: Scene, generator: torch.Generator) -> str:
    """Pick a sentence as `caption` does that leaves open which things the scene shows, so that
    pictures of them have to tell; empty for several things that are alike."""
    first, *others = scene.things
    if any(other == first for other in others):
        return ""
    return caption(replace(scene, named=False), generator)


def subjects(scene: Scene) -> list[str]:
    """The things of a scene in the order of its captions, by what a picture of them shows."""
    different = dict.fromkeys(scene.things)
    return [f"{thing.colour} {thing.shape}" for thing in different]


def words() -> list[str]:
    """Every word that a caption can hold, sorted: the vocabulary of the embedded text encoder."""
    plain = (COLOURS, SIZES, BACKGROUNDS, CAMERAS, NUMBERS)
    phrases = [phrase for table in plain for options in table.values() for phrase in options]
    paired = (SHAPES, MOTIONS)
    phrases += [
        form for table in paired for forms in table.values() for both in forms for form in both
    ]
    return sorted(
        {word for phrase in (*phrases, *PREFIXES, "a an and while") for word in phrase.split()}
    )
