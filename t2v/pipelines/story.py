"""Stories: scenes of any length, made window by window, each from the end of the one before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from t2v.config.story import WindowsConfig
from t2v.errors import UserError
from t2v.io.files import sha256
from t2v.models.causal import DecodeStream
from t2v.models.conditions import Conditions
from t2v.models.device import ready
from t2v.models.finite import refuse_bad
from t2v.models.known import check_references, check_taken
from t2v.models.latents import denormalize_latents
from t2v.pipelines.generator import Request
from t2v.pipelines.references import reference_frames, with_references
from t2v.pipelines.students import check_student
from t2v.pipelines.visuals import Fit, Frames, VisualInputs, spoken

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene of a story.

    Args:
        num_frames: its length.
        is_cut: it does not go on from the scene before; so is every first one.
        image, fit: its first frame, see `VisualInputs`; only after a cut.
    """

    prompt: str
    num_frames: int
    is_cut: bool = False
    image: Frames | None = None
    fit: Fit = "crop"


@dataclass(frozen=True)
class Window:
    """One video of the model, a piece of a story.

    Args:
        scene: its number.
        number: its own in the scene.
        first: the frame of the story at which it begins to be shown.
        frames: how many of its frames are shown.
        known: frames before `first` that it is given, `4k + 1`; 0 after a cut.
        goes_on: all but the first of them are given as the latents they were made as, and its own
            latents are decoded behind them.
    """

    scene: int
    number: int
    first: int
    frames: int
    known: int
    goes_on: bool

    def seed(self, seed: int) -> int:
        """The seed of its noise; that of the first one is the story's."""
        if self.scene == self.number == 0:
            return seed
        return int(sha256(f"{seed} {self.scene} {self.number}")[:15], 16)


MOST_FRAMES = 10**7  # of a story: days of video


def plan_windows(
    scenes: Sequence[Scene], length: int, temporal: int, overlap: int, *, as_latents: bool
) -> list[Window]:
    """The windows of a story. Each is a whole video of the model; frames past a scene's end are
    not shown.

    A window is given the last `temporal * overlap + 1` frames since the last cut, or as many of
    them as there are. With `as_latents` they are given as latents wherever the frames shown so far
    end with a latent frame; elsewhere they are encoded.

    Args:
        length: frames of a window.
        temporal: frames of a latent frame.
        overlap: latent frames, besides the frame before them.

    Raises:
        UserError: windows that hold nothing but what they are given, or are no video of the VAE.
    """
    if (length - 1) % temporal or length <= temporal * overlap + 1:
        raise UserError(
            f"windows.frames={length} windows.overlap={overlap}: a window has {temporal}k + 1 "
            f"frames and is given {temporal * overlap + 1} of them. Give frames of at least "
            f"{temporal * (overlap + 1) + 1}, such as {temporal * (overlap + 4) + 1}."
        )
    if (total := sum(scene.num_frames for scene in scenes)) > MOST_FRAMES:
        raise UserError(
            f"A story of {total:,} frames: at most {MOST_FRAMES:,} are made. Give less."
        )
    found: list[Window] = []
    first = since = 0  # of the story; shown since the last cut
    chain: int | None = (
        None  # latent frames behind the first of the chain; None: it ends inside one
    )
    for number, scene in enumerate(scenes):
        end = first + scene.num_frames
        index = 0
        while first < end:
            is_cut = index == 0 and (scene.is_cut or number == 0)
            since = 0 if is_cut else since
            goes_on = as_latents and chain is not None and not is_cut
            most = chain if goes_on and chain is not None else (since - 1) // temporal
            known = 0 if is_cut else temporal * min(overlap, most) + 1
            shown = min(length - known, end - first)
            found.append(Window(number, index, first, shown, known, goes_on))
            begun = (chain or 0) * temporal + 1 if goes_on else known
            chain = None if (begun + shown - 1) % temporal else (begun + shown - 1) // temporal
            first, since, index = first + shown, since + shown, index + 1
    return found


class Film:
    """The end of a story so far, all that its next window needs; it does not grow with the story.

    Args:
        tail: the last frames since the last cut, `t c h w` in [0, 1].
        anchor: the first of them.
        latents: the last ones of the chain that is decoded, `1 c t h w`.
        stream: the decoder behind them.
    """

    def __init__(self) -> None:
        self.tail: Tensor | None = None
        self.anchor: Tensor | None = None
        self.latents: Tensor | None = None
        self.stream = DecodeStream()

    def cut(self) -> None:
        """Forget what was shown."""
        self.tail = self.anchor = self.latents = None

    def add(self, frames: Tensor, most: int) -> None:
        """Show frames; the last `most` are kept."""
        if self.anchor is None:
            self.anchor = frames[:1]
        shown = frames if self.tail is None else torch.cat([self.tail, frames])
        self.tail = shown[-most:].clone()


class LatentWindows:
    """The maker of a story's windows with a `T2VPipeline`: latents first, which can be kept.

    Args:
        request: of each window; its `num_frames` is their length.
        config: how they are joined.
        guidance: makes that of each window. None: the pipeline's own.
        references: pictures of the story's subjects, which every window is given.

    Raises:
        UserError: the pipeline takes no pictures, and an anchor is asked for; or fewer references.
    """

    def __init__(
        self,
        pipeline: Any,
        request: Request,
        config: WindowsConfig,
        guidance: Callable[[], Any] | None = None,
        references: Sequence[Any] = (),
    ) -> None:
        self.pipeline, self.request, self.config = pipeline, request, config
        self.guidance, self.references = guidance, tuple(references)
        check_references(pipeline.transformer, len(self.references))
        self.temporal: int = pipeline.vae.config.scale_factor_temporal
        transformer = pipeline.transformer.config
        self.as_latents = (
            config.known == "latents"
            and transformer.get("conditioning", "none") == "tokens"
            and hasattr(pipeline.vae, "decode_next")
        )
        if config.known == "latents" and not self.as_latents:
            logger.info("windows are given the frames before them, encoded: not as latents")
        self.overlap = config.overlap
        if config.overlap and transformer.get("image_dim") is not None:
            logger.info("windows.overlap=0: this model goes on from one frame")
            self.overlap = 0
        if config.anchor and not transformer.get("picture_tokens", False):
            raise UserError(
                f"windows.anchor=true: this {type(pipeline.transformer).__name__} has "
                "picture_tokens=false. Leave it out, or use a model trained with pictures."
            )

    def plan(self, scenes: Sequence[Scene]) -> list[Window]:
        """The windows of scenes.

        Raises:
            UserError: see `plan_windows`; or the model cannot be given what they need.
        """
        length = self.request.num_frames
        assert length is not None
        found = plan_windows(
            scenes, length, self.temporal, self.overlap, as_latents=self.as_latents
        )
        config = self.pipeline.transformer.config
        needy = next(
            (each for each in found if each.known or scenes[each.scene].image is not None), None
        )
        if needy:
            check_student(
                self.pipeline,
                seen=[f"scene {needy.scene + 1}, which goes on from frames or a picture"],
            )
        if needy and config.get("conditioning", "none") == "none":
            raise UserError(
                f"scene {needy.scene + 1} goes on from frames or a picture, and this model takes "
                f"text alone. Use one trained with pictures and clips as conditions, or scenes of "
                f"at most {length} frames that all begin with a cut."
            )
        return found

    @torch.no_grad()
    def make(
        self, scene: Scene, window: Window, film: Film, seed: int, watch: Any = None
    ) -> Tensor:
        """The latents of a window, `1 c t h w`, with those that it is given.

        Args:
            seed: of the story.
        """
        request = self.request
        positive, negative = self._given(scene, window, film)
        sizes = {
            "height": request.height,
            "width": request.width,
            "num_frames": request.num_frames,
        }
        generator = torch.Generator().manual_seed(window.seed(seed))
        latents = None
        if window.known and self.config.noise == "inverted":
            device = self.pipeline._execution_device
            latents = self.pipeline.prepare_latents(1, **sizes, device=device, generator=generator)
            latents = self._mixed(latents, positive, window)
        made: Tensor = self.pipeline.generate(
            positive,
            negative,
            **sizes,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=generator,
            latents=latents,
            guidance=None if self.guidance is None else self.guidance(),
            lag=self.config.lag,
            watch=watch,
        )
        return made

    def _given(
        self, scene: Scene, window: Window, film: Film
    ) -> tuple[Conditions, Conditions | None]:
        prompt = spoken(scene.prompt, len(self.references))
        positive, negative = self.pipeline.encode_conditions([prompt], self.request)
        if window.goes_on:
            given = self._known_latents(window, film)
            positive = replace(positive, **given)
            check_taken(self.pipeline.transformer, positive)
        elif window.known or (scene.image is not None and window.number == 0):
            visuals = VisualInputs(image=scene.image, fit=scene.fit)
            if window.known:
                assert film.tail is not None
                visuals = VisualInputs(video=film.tail[-window.known :])
            request = self.request
            positive, _ = self.pipeline.add_visuals(
                (positive, None), [visuals], request.num_frames, request.height, request.width
            )
        if window.known and positive.known_mask is not None and self.config.strength < 1:
            positive = replace(positive, known_mask=positive.known_mask * self.config.strength)
        if window.known and self.config.anchor:
            assert film.anchor is not None
            picture = self.pipeline.encode_frames(film.anchor)
            place = torch.zeros(1, 1, device=picture.device)
            positive = replace(positive, pictures=picture, picture_positions=place)
        if self.references:
            beside = with_references(
                self._references(), positive.pictures, positive.picture_positions
            )
            positive = replace(positive, pictures=beside[0], picture_positions=beside[1])
        if negative is None:
            return positive, None
        return positive, replace(positive, text=negative.text, text_mask=negative.text_mask)

    def _references(self) -> Tensor:
        """The latents of the pictures of the subjects, `1 c k h w`."""
        visuals = VisualInputs(reference_images=self.references)
        size = self.request.height, self.request.width
        assert size[0] is not None and size[1] is not None
        pictures = reference_frames(visuals, size[0], size[1])
        return torch.cat([self.pipeline.encode_frames(each) for each in pictures], dim=2)

    def _known_latents(self, window: Window, film: Film) -> dict[str, Tensor]:
        """The known latents of a window behind a chain, and their mask.

        The model was trained on videos whose first latent frame is one frame. So the frame before
        the latents is encoded alone and leads them; with one of four frames in its place the
        positions of all would be wrong.
        """
        assert film.tail is not None and film.latents is not None
        lead = self.pipeline.encode_frames(film.tail[-window.known :][:1])
        count = (window.known - 1) // self.temporal
        behind = film.latents[:, :, film.latents.shape[2] - count :]
        known = torch.cat([lead, behind.to(lead)], dim=2)
        assert self.request.num_frames is not None
        frames = (self.request.num_frames - 1) // self.temporal + 1
        mask = known.new_zeros(1, 1, frames, *known.shape[3:])
        mask[:, :, : known.shape[2]] = 1
        padded = F.pad(known, (0, 0, 0, 0, 0, frames - known.shape[2]))
        return {"known": padded, "known_mask": mask}

    def _mixed(self, noise: Tensor, positive: Conditions, window: Window) -> Tensor:
        """Noise whose new latent frames are half that of the last known one (Video-LaVIT)."""
        assert positive.known is not None
        count = (window.known - 1) // self.temporal + 1
        alone = Conditions(text=positive.text, text_mask=positive.text_mask)
        known = positive.known[:, :, :count]
        path = self.pipeline.invert(known, alone, self.request.num_inference_steps)
        last = path[:, :, -1:]
        last = (last - last.mean()) / last.std()
        half = 0.5**0.5
        mixed = half * noise + half * last.to(noise)
        return torch.cat([noise[:, :, :count], mixed[:, :, count:]], dim=2)

    @torch.no_grad()
    def show(self, window: Window, film: Film, latents: Tensor) -> Tensor:
        """The frames that a window adds to the story, `t c h w` in [0, 1]; the film moves on.

        Latents that go on are decoded behind those before them, by a decoder that remembers them,
        so that there is no seam: the frames are those of one long video.

        Raises:
            UserError: the latents, or the frames, hold NaN or infinite values.
        """
        temporal = self.temporal
        before = (window.known - 1) // temporal + 1 if window.known else 0
        if window.goes_on:
            new = latents[:, :, before : before - (-window.frames // temporal)]
            hidden = 0
        else:
            film.stream = DecodeStream()
            count = -(-(window.known + window.frames - 1) // temporal) + 1
            new = latents[:, :, :count]
            hidden = window.known
        if not window.known:
            film.cut()
        video = self._decode(new, film.stream)[:, :, hidden : hidden + window.frames]
        (frames,) = self.pipeline.video_processor.postprocess_video(video, output_type="pt")
        chain = (
            new
            if film.latents is None or not window.goes_on
            else torch.cat([film.latents, new], dim=2)
        )
        film.latents = chain[:, :, -max(1, self.overlap) :].clone()
        film.add(frames, temporal * self.overlap + 1)
        return frames

    def _decode(self, latents: Tensor, stream: DecodeStream) -> Tensor:
        pipeline, vae = self.pipeline, self.pipeline.vae
        if not hasattr(vae, "decode_next"):
            return pipeline.decode_latents(latents)
        refuse_bad("transformer", latents, pipeline.transformer.dtype)
        latents = denormalize_latents(latents.to(ready(vae)), vae.config).to(vae.dtype)
        video = vae.decode_next(latents, stream)
        refuse_bad("vae", video, vae.dtype)
        return video


def tell(maker: LatentWindows, scenes: Sequence[Scene], seed: int) -> Iterator[Tensor]:
    """Yield the frames of a story window by window, `t c h w` in [0, 1]."""
    film = Film()
    for window in maker.plan(scenes):
        scene = scenes[window.scene]
        yield maker.show(window, film, maker.make(scene, window, film, seed))
