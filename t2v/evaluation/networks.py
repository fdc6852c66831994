"""The networks of an evaluation that several metrics share, each loaded once."""

from __future__ import annotations

from functools import cached_property

from t2v.config.evaluation import EvalConfig
from t2v.errors import UserError
from t2v.nets.features import FrameNet, load_frame_net, vae_frames
from t2v.pipelines.generator import Generator
from t2v.world.oracle import WorldOracle, load_oracle


class Networks:
    """Loads what the settings name; a metric with a network of its own reads `config` and `device`.

    Args:
        config: the settings.
        generator: the model that is measured, whose VAE may serve as a network.
    """

    def __init__(self, config: EvalConfig, generator: Generator) -> None:
        self.config, self.vae = config, generator.vae
        self.device = generator.pipeline._execution_device.type
        if config.perceptual == "vae" and generator.vae is None:
            raise UserError(
                f"perceptual=vae: a {type(generator.pipeline).__name__} has no VAE to compare "
                "frames by. Name a model of images, or give perceptual=null."
            )

    @cached_property
    def perceptual(self) -> FrameNet | None:
        """The network of perceptual distance; None: none is named.

        Raises:
            UserError: it cannot be loaded.
        """
        match self.config.perceptual:
            case None:
                return None
            case "vae":
                assert self.vae is not None
                return vae_frames(self.vae)
            case name:
                return load_frame_net(name, self.device)

    @cached_property
    def oracle(self) -> WorldOracle | None:
        """The oracle of the world; None: none is named.

        Raises:
            UserError: it cannot be loaded.
        """
        folder = self.config.oracle
        return load_oracle(folder).to(self.device) if folder else None
