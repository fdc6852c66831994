"""The settings of every kind of training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one, not_negative
from t2v.config.codes import CODES, check_codes
from t2v.config.data import ClipsConfig, Precision
from t2v.config.models import TransformerConfig, UpscalerConfig, VAEConfig
from t2v.config.text import TextEncoderConfig
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, schedule and weight average."""

    name: Literal["muon", "adamw"] = "muon"  # muon: of hidden matrices, AdamW for the rest
    lr: float = 3e-3  # learning rate of Muon
    adam_lr: float = 1e-3  # learning rate of AdamW
    weight_decay: float = 0.0  # decoupled from the gradient, for both
    warmup_steps: int = 100  # steps over which learning rates rise from zero
    decay_from: float = 0.5  # share of the steps after which learning rates fall to zero, a cosine
    clip_norm: float = 1.0  # largest norm of the gradients
    ema_decay: float = 0.998  # of the average of the weights, which is validated and saved


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings that every kind of training shares."""

    output: str  # folder of checkpoints, metrics and sheets; a run in it is continued
    overwrite: bool = False  # replace files in the output that are not this command's own
    seed: int = 0  # of weights, batches and noise
    steps: int = 10_000  # optimizer steps in all
    batch_size: int = 48  # clips of one forward pass; a step sees `accumulate` * processes of them
    accumulate: int = 1  # forward passes a step, in each process
    gradient_checkpointing: bool = False  # a third more time for far less memory
    # what gradient_checkpointing keeps: what enters each block, or (selective) the results of
    # products and attention too, so that only cheap operations run again
    checkpointing: Literal["blocks", "selective"] = "blocks"
    # compile the blocks of the network: faster steps after a first one that takes minutes more; a
    # run is compiled from its first step to its last
    compile: bool = False
    # of compile, on a GPU: reduce-overhead has CUDA graphs, max-autotune also tries kernels
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    parallel: Literal["ddp", "fsdp"] = "ddp"  # processes hold the weights whole, or split them
    optim: OptimConfig = field(default_factory=OptimConfig)
    save_every: int = 500  # steps between checkpoints
    keep_checkpoints: int = 2  # newest checkpoints to keep
    validate_every: int = 500  # steps between validations
    # of forward passes; weights stay in fp32. auto: bf16 where this machine trains faster in it,
    # else fp32; a run that goes on keeps what it began with
    precision: Precision = "auto"
    # under precision=bf16, the numbers that go from block to block of a t2v transformer; null: as
    # its embedding leaves them (fp32 with model.picture_tokens, else bf16)
    residual: Literal["bf16", "fp32"] | None = None
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    # where curves and sheets are shown: tensorboard, trackio, wandb or none; auto: tensorboard, if
    # it is installed
    tracker: Literal["auto", "none", "tensorboard", "trackio", "wandb"] = "auto"
    held_out: int = 256  # clips kept for validation: the last of the data
    clips: ClipsConfig = field(default_factory=ClipsConfig)  # how those of a manifest are batched
    start_from: str | None = None  # pipeline folder or checkpoint to take the first weights from
    average_with: str | None = None  # another one; the first weights are the mean of both
    loader_workers: int | None = None  # processes that read batches ahead; null: 2 beside a GPU

    def __post_init__(self) -> None:
        at_least_one(self, "batch_size", "accumulate", "save_every", "validate_every")
        if self.loader_workers is not None:
            not_negative(self, "loader_workers")
        at_least_one(self, "keep_checkpoints")
        if self.compile and self.gradient_checkpointing and self.checkpointing == "selective":
            raise UserError(
                "compile=true checkpointing=selective: what is kept inside a compiled block is its "
                "compiler's choice. Give checkpointing=blocks, or leave compile out."
            )
        if self.compile and self.parallel == "fsdp":
            raise UserError(
                "compile=true parallel=fsdp: blocks that are split over processes are not "
                "compiled. Give parallel=ddp, or leave compile out."
            )
        if self.compile_mode != "default" and not self.compile:
            raise UserError(f"compile_mode={self.compile_mode} is of compile=true. Give both.")
        if self.average_with and not self.start_from:
            raise UserError(
                f"average_with={self.average_with} is the second of two folders whose weights are "
                "averaged. Give the first one as start_from."
            )


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """A network that learns to tell reconstructed clips from real ones, beside a VAE."""

    weight: float = 0.0  # adversarial loss weight, relative to the other losses; 0 disables it
    start: int = 0  # first step of the discriminator
    alone: int = 100  # discriminator-only warm-up steps
    width: int = 32  # channels of the first of its three layers
    lr: float = 3e-4  # learning rate of the discriminator
    r1: float = 0.1  # weight of the R1 gradient penalty (arXiv 1801.04406)

    def __post_init__(self) -> None:
        at_least_one(self, "width")
        not_negative(self, "weight", "start", "alone", "r1")
        if not self.lr > 0:
            raise UserError(f"lr={self.lr}: it must be more than 0.")


@dataclass(frozen=True, kw_only=True)
class TrainVAEConfig(TrainConfig):
    """`t2v train-vae`"""

    # paths that a file of settings may tell from its own folder
    BESIDE_FILE: ClassVar[tuple[str, ...]] = ("start_from", "average_with")

    model: VAEConfig = field(default_factory=VAEConfig)
    data: str  # folder written by `t2v world`, a manifest, or a folder of media
    train_encoder: bool = True  # false: train the decoder alone; latents stay those of start_from
    image_ratio: float = 0.1  # share of the steps that see single frames
    mse_weight: float = 10.0  # loss weight of the squared error of pixels
    kl_weight: float = 3e-4  # loss weight of the divergence of latents from a normal
    l1_weight: float = 0.25  # loss weight of the absolute error of pixels
    gradient_weight: float = 3.0  # loss weight of the error of differences of neighbouring pixels
    foreground_weight: float = 4.0  # extra weight of pixels that things cover, in rendered clips
    # network of the perceptual loss: an image model of transformers, or a `t2v world oracle` folder
    perceptual: str | None = None
    perceptual_weight: float = 1.0  # loss weight of the perceptual loss
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "perceptual_weight")
        if not self.train_encoder and self.start_from is None:
            raise UserError("train_encoder=false keeps a trained encoder: name it by start_from.")
        if not self.train_encoder and self.average_with:
            raise UserError(
                f"average_with={self.average_with} train_encoder=false: a mean of two encoders "
                "makes other latents. Leave average_with out, or train the encoder."
            )


MOST_REFERENCES = 2  # pictures that tasks.references gives a clip


BESIDE = ("ends", "pictures", "references")  # tasks that give pictures beside a clip


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """The shares of what clips are given besides their caption; they need not add up to 1.

    All but `text` and `image` are for a transformer of conditioning=tokens.
    """

    text: float = 1.0  # nothing
    image: float = 0.0  # nothing, and the clip is a single frame; it stands for clips.image_ratio
    first: float = 0.0  # the first frame
    prefix: float = 0.0  # 4k+1 frames from the first on, or all before a clip's last scene
    ends: float = 0.0  # the first frame, and the last one as a picture
    between: float = 0.0  # some latent frames at the beginning and at the end
    region: float = 0.0  # all but a box, or a box alone
    frames: float = 0.0  # nothing, and every latent frame has a noise level of its own
    pictures: float = 0.0  # frames anywhere, as pictures
    # one or two pictures of the clip's subjects, the first frames of other clips that show them
    references: float = 0.0

    def __post_init__(self) -> None:
        not_negative(self, *asdict(self))
        if not self.text + self.image < sum(asdict(self).values()) and not self.text:
            raise UserError("tasks: every share is 0. Give at least one, such as text=1.")

    @property
    def gives_known(self) -> bool:
        """True where clips are given latents, or frames have noise levels of their own."""
        return self.text + self.image < sum(asdict(self).values())

    @property
    def gives_pictures(self) -> bool:
        return sum(getattr(self, name) for name in BESIDE) > 0


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Tokens that training steps leave out, for cheaper steps; samples always see all of them."""

    ratio: float = 0.0  # share of a clip's tokens that is left out of a step; 0: none
    # route: past the middle blocks, and all tokens are learned; drop: past all blocks, and only
    # those that are left in are learned
    form: Literal["route", "drop"] = "route"
    # tubes: a place is left out of all frames of a clip; tokens: of each frame on its own
    shape: Literal["tubes", "tokens"] = "tubes"
    whole_blocks: tuple[int, int] = (1, 1)  # of form=route: first and last blocks that see all
    words: float = 0.0  # share of a caption's tokens that is left out before it is embedded
    until: float = 0.8  # share of the steps after which nothing is left out

    def __post_init__(self) -> None:
        for name in ("ratio", "words"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name}={getattr(self, name)}: a share of the tokens, from 0 to below 1."
                )
        if not 0 <= self.until <= 1:
            raise UserError(f"until={self.until}: a share of the steps, from 0 to 1.")
        if min(self.whole_blocks) < 0:
            raise UserError(
                f"whole_blocks={list(self.whole_blocks)}: numbers of blocks, 0 or more."
            )


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """The samples on the contact sheet of each validation."""

    height: int | None = None  # pixels; null: that of most training clips
    width: int | None = None  # pixels; null: that of most training clips
    num_frames: int | None = None  # null: that of most training clips
    steps: int | None = None  # denoising steps; null: those that the model is saved with

    def __post_init__(self) -> None:
        if self.steps is not None:
            at_least_one(self, "steps")


@dataclass(frozen=True, kw_only=True)
class TrainUpscalerConfig(TrainConfig):
    """`t2v train-upscaler`"""

    model: UpscalerConfig = field(default_factory=UpscalerConfig)
    # folder of `t2v world`, whose scenes are rendered again `scale` times as large; or a manifest
    # or folder of media, whose clips are made smaller
    data: str
    # VAE whose reconstructions are enlarged, as films of a model are: a VAE's folder, a pipeline
    # folder or the embedded model; null: the small clips as they are
    vae: str | None = None
    plain: float = 0.1  # share of the clips that are enlarged as they are, where there is a VAE
    batch_size: int = 4  # windows of one forward pass
    window: int = 32  # side of a window, in pixels of the small clip
    window_frames: int = 5  # frames of a window
    pool: int = 32  # clips in memory, which windows are cut from
    pool_steps: int = 64  # steps with one pool; then the next clips take its place
    held_out: int = 16  # clips kept for validation: the last of the data
    gradient_weight: float = 1.0  # loss weight of the error of differences of neighbouring pixels
    # loss weight of the error of local sharpness: the mean absolute Laplacian of 8x8 pixels
    sharpness_weight: float = 0.2
    # loss weight of the error of the change from frame to frame, and of the change of that change
    temporal_weight: float = 0.0
    # network of the perceptual loss, an image model of transformers
    perceptual: str | None = None
    perceptual_weight: float = 0.1  # loss weight of the perceptual loss

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "window", "window_frames", "pool", "pool_steps")
        not_negative(self, "gradient_weight", "sharpness_weight", "perceptual_weight")
        not_negative(self, "temporal_weight")
        if self.temporal_weight and self.window_frames < 3:
            raise UserError(
                f"temporal_weight={self.temporal_weight} window_frames={self.window_frames}: a "
                "change of change takes 3 frames. Give window_frames=3 or more, or "
                "temporal_weight=0."
            )
        if self.window % 2:
            raise UserError(
                f"window={self.window}: it must be even, as the network works at half the size too."
            )
        if not 0 <= self.plain <= 1:
            raise UserError(f"plain={self.plain}: it must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(TrainConfig):
    """The settings that training and fine-tuning a transformer share.

    Each may give them defaults of its own. The task reads them from here, so that one which is
    added here reaches both.
    """

    data: str  # a folder written by `t2v world`, a manifest, or a folder of x.mp4 and x.txt
    shift: float | None = None  # of the times of a flow towards noise; null: the scheduler's
    attention: str = "native"  # kernel of the training steps; samples use the default
    caption_dropout: float = 0.1  # share of the captions replaced by the empty one
    # half of the captions also tell how much a clip and its camera move, by the tags of curation
    motion_words: bool = False
    train_text_encoder: bool = False  # let the text encoder learn too
    text_lr: float = 1e-4  # learning rate of the text encoder, new words and the soft prompt
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)  # how it is read
    cache_text: bool = True  # embed each caption once, where the text encoder does not learn
    # shares of what clips are given: {text: .4, image: .15, first: .15, prefix: .1, ...}
    tasks: TasksConfig = field(default_factory=TasksConfig)
    known_dropout: float = 0.1  # share of the clips that are given nothing after all, for guidance
    known_noise: float = 0.0  # latest time, in [0, 1), that what is given is noised to
    # clips of any shape in a batch, as one sequence in which none sees another; false: of one shape
    pack: bool = False
    masking: MaskingConfig = field(default_factory=MaskingConfig)  # tokens that steps leave out
    sheet: SheetConfig = field(default_factory=SheetConfig)  # samples of each validation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("known_dropout", "known_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: it must be at least 0 and below 1.")
        if self.pack:
            self._check_packed()
        if self.masking.words and self.cache_text and not self.train_text_encoder:
            raise UserError(
                f"masking.words={self.masking.words}: captions whose words change are embedded "
                "again in each step. Give cache_text=false too, or leave it out."
            )
        if self.tasks.image and (self.clips.image_ratio or self.clips.stages):
            raise UserError(
                f"tasks.image={self.tasks.image} beside clips.image_ratio or clips.stages: both "
                "say how many steps see single frames. Give one of them."
            )

    def _check_packed(self) -> None:
        tasks = asdict(self.tasks)
        given = {
            f"masking.ratio={self.masking.ratio}": (self.masking.ratio, "whole"),
            "compile=true": (self.compile, "not compiled"),
        } | {
            f"tasks.{name}={tasks[name]}": (tasks[name], "given no pictures beside them")
            for name in BESIDE
        }
        if wrong := {name: words for name, (value, words) in given.items() if value}:
            raise UserError(
                f"pack=true {' '.join(wrong)}: packed clips are "
                f"{' and '.join(dict.fromkeys(wrong.values()))}. Leave out pack, or "
                f"{' and '.join(name.partition('=')[0] for name in wrong)}."
            )

    def clips_of_tasks(self) -> ClipsConfig:
        """The settings of clips, with the share of single frames that the tasks ask for."""
        if not self.tasks.image:
            return self.clips
        ratio = self.tasks.image / sum(asdict(self.tasks).values())
        return replace(self.clips, image_ratio=ratio)


@dataclass(frozen=True, kw_only=True)
class TrainDiTConfig(DiffusionConfig):
    """`t2v train`"""

    ONE_OR_MORE: ClassVar[tuple[str, ...]] = ("model.attention", "text_encoder.layer")
    # paths that a file of settings may tell from its own folder
    BESIDE_FILE: ClassVar[tuple[str, ...]] = (
        *("vae", "text", "text_encoder.second", "start_from", "average_with"),
    )

    model: TransformerConfig = field(default_factory=TransformerConfig)
    vae: str  # a VAE folder or a checkpoint of `t2v train-vae`
    text: str  # folder with tokenizer/ and text_encoder/, written by `t2v world text`
    # what the network predicts: flow, v or epsilon of noisy latents; codes that are masked, or the
    # next ones, of a VAE with a quantizer (masked, autoregressive)
    objective: Literal["flow", "v", "epsilon", "masked", "autoregressive"] = "flow"
    shift: float = 2.0  # of the times of objective=flow towards noise; the others do not use it
    train_text_encoder: bool = True
    text_lr: float = 2e-4
    num_inference_steps: int = 20  # sampling steps that the saved pipeline takes by default
    guidance_scale: float = 3.0  # guidance that the saved pipeline uses by default
    max_sequence_length: int = 64  # text tokens the transformer sees, zero rows after the last
    # prompts of the samples on the contact sheet of each validation
    prompts: tuple[str, ...] = (
        "a red ball bounces on grass",
        "a blue cube spins on sand",
        "a yellow star moves left over the sea",
        "a green ring rises at night",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks.gives_known and self.model.conditioning != "tokens":
            raise UserError(
                f"tasks={asdict(self.tasks)} gives known frames, and model.conditioning="
                f"{self.model.conditioning} takes none. Set model.conditioning=tokens."
            )
        if self.tasks.gives_pictures and not self.model.picture_tokens:
            raise UserError(
                "tasks.ends, tasks.pictures and tasks.references give pictures. Set "
                "model.picture_tokens=true."
            )
        if self.tasks.references and self.model.references < MOST_REFERENCES:
            raise UserError(
                f"tasks.references={self.tasks.references} gives up to {MOST_REFERENCES} pictures, "
                f"and model.references={self.model.references}. Set model.references="
                f"{MOST_REFERENCES}."
            )
        if self.objective in CODES or self.model.codebook_size:
            check_codes(self)
        if not self.prompts:
            raise UserError("prompts=[]: validations show samples. Give at least one prompt.")
