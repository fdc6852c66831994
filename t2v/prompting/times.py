"""The scene of a prompt that each latent frame of a film belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2v.errors import UserError
from t2v.prompting.syntax import Scene


@dataclass(frozen=True, kw_only=True)
class FilmTimes:
    """The length of a film, and of its latents.

    Args:
        num_frames: frames of the film.
        fps: frames per second.
        stride: frames that a latent frame stands for; the first one stands for one.
        latent_frames: as many as are made, padding included.
    """

    num_frames: int
    fps: float
    stride: int
    latent_frames: int

    @property
    def centres(self) -> list[float]:
        """The second in the middle of each latent frame."""
        first = [*range(1, self.stride * self.latent_frames, self.stride)][: self.latent_frames - 1]
        return [0.5 / self.fps, *((each + self.stride / 2) / self.fps for each in first)]

    def scenes(self, scenes: Sequence[Scene]) -> list[int]:
        """The number of the scene that each latent frame shows: the one at its middle.

        The last scene goes on to the end of the film.

        Raises:
            UserError: a scene ends after the film, or is too short for a latent frame.
        """
        is_untimed = len(scenes) == 1 and scenes[0].end == float("inf")
        if is_untimed or self.num_frames == 1:  # a picture is of the first moment
            return [0] * self.latent_frames
        seconds = self.num_frames / self.fps
        if scenes[-1].end > seconds + 1e-6:
            raise UserError(
                f"prompt: its last scene ends at {scenes[-1].end:g} s, and the film of "
                f"{self.num_frames} frames at {self.fps:g} fps at {seconds:g} s. Give "
                f"duration={scenes[-1].end:g}, or earlier times."
            )
        starts = [scene.start for scene in scenes]
        found = [sum(start <= centre for start in starts) - 1 for centre in self.centres]
        shown = set(found[: -(-(self.num_frames - 1) // self.stride) + 1])
        for number, scene in enumerate(scenes):
            if number not in shown:
                raise UserError(
                    f"prompt: no latent frame has its middle in [{scene.start:g}-{scene.end:g}s]; "
                    f"one stands for {self.stride / self.fps:g} s. Give the scene more time."
                )
        return found
