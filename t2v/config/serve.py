"""The settings of the server."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from t2v.config.checks import at_least_one
from t2v.errors import UserError


def is_local(host: str) -> bool:
    """True for an address or name by which a machine reaches itself alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """`t2v serve FOLDER`: OpenAI's endpoint for videos, over a queue and its workers."""

    queue: str  # folder of the queue; it is made if it is not there
    # models that clients may ask for: the embedded model, pipeline folders or Hub ids; a folder is
    # known by its last name, and the first is what a request without a model gets
    models: tuple[str, ...] = ("t2v-tiny",)
    # LoRA files, or folders that hold one, that clients may ask for; each is known by its last name
    loras: tuple[str, ...] = ()
    # one worker each: auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps; []: none, other processes
    # work on the queue (`t2v queue run`)
    devices: tuple[str, ...] = ("auto",)
    # address to listen on; one that other machines reach needs a token, in the environment variable
    # T2V_TOKEN or in token_file
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free; the address is printed
    token_file: str | None = None  # file whose one line is the token that every request must bring
    # names under which browsers and clients reach the server, beside localhost and IP addresses;
    # requests for any other host are refused
    names: tuple[str, ...] = ()
    max_queued: int = 100  # videos that may wait; one more is answered with 429 and a time
    max_prompt: int = 2000  # characters of a prompt
    max_seconds: float = 10.0  # of a video
    max_pixels: int = 1920 * 1080  # of a frame, as the file has it
    max_steps: int = 100  # denoising steps of a video
    max_best_of: int = 8  # seeds tried for a video
    max_scenes: int = 20  # of a story, each as long as max_seconds at most
    max_clip: float = 60.0  # seconds of a clip that a client sends
    max_upload: float = 16.0  # megabytes of a request with pictures and clips
    max_stored: float = 4.0  # gigabytes of files that clients sent, kept as long as their videos
    max_streams: int = 32  # event streams that are open at a time
    max_connections: int = 256  # connections that are open at a time
    # seconds in which a client has to send its headers, its body, or take a piece of an answer
    patience: float = 30.0
    resident: int = 2  # models that a worker keeps in memory
    # gigabytes of weights that a worker keeps; null: as `memory` of `t2v queue run`
    memory: float | None = None

    def __post_init__(self) -> None:
        at_least_one(
            self,
            *("max_queued", "max_prompt", "max_pixels", "max_steps", "max_streams"),
            *("max_connections", "max_best_of", "max_scenes", "resident"),
        )
        for name in ("max_seconds", "max_clip", "max_upload", "max_stored", "patience"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name):g}: it must be more than 0.")
        if not 0 <= self.port < 2**16:
            raise UserError(f"port={self.port}: it must be from 0 to 65,535.")
        if self.memory is not None and self.memory <= 0:
            raise UserError(f"memory={self.memory:g}: it must be more than 0.")
        if not self.models:
            raise UserError("models=[]: name at least one, such as models=[t2v-tiny].")
        for setting in ("models", "loras"):
            if any(not name.strip() for name in getattr(self, setting)):
                raise UserError(f"{setting}: a name is empty. Name one, or leave it out.")

    @property
    def is_local(self) -> bool:
        """True where only this machine reaches the server."""
        return is_local(self.host)


@dataclass(frozen=True, kw_only=True)
class StudioConfig(ServeConfig):
    """`t2v studio`: pages to make and look at videos, over that endpoint."""

    queue: str = "runs/studio"  # folder of the queue and its videos; it is made if it is not there
    port: int = 7860  # 0: any that is free; the address is printed
    # folder whose trainings, evaluations and blind votes are shown; null: none
    runs: str | None = "runs"
    open: bool = True  # show the page in this machine's browser
    # clips to review by hand: folders of `t2v curate`, manifests, or folders of captioned media
    reviews: tuple[str, ...] = ()
