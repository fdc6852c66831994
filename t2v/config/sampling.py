"""The settings of making videos and of timing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from pathlib import PurePath
from typing import Any, ClassVar, Literal

from t2v.config.checks import at_least_one, check_interpolation, check_workers, kind_of, kinds_of
from t2v.config.codes import CodesConfig
from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError

LoRAPresetName = Literal["wan21-lightx2v", "wan22-lightx2v", "causvid"]

REFERENCES = "reference_images"
# settings that name files of the user; the last one takes several
INPUTS = ("image", "last_image", "video", "mask", REFERENCES)
# what a picture of one frame cannot have
FILM = ("num_frames", "duration", "gif", "image", "last_image", "interpolate", "via_image")
VIDEOS = {".mp4": "H.264", ".webm": "VP9", ".mov": "ProRes 422 HQ, 10 bits"}
OUTPUTS = {
    **VIDEOS,
    ".gif": "GIF",
    ".png": "one frame",
    "/": "a folder of numbered PNGs",
}
FIRST = ("image", "video", "via_image")  # how a video begins
CHANGES = ("last_image", "mask", "strength", "interpolate")  # what becomes of a clip
# what leaves work of the denoising out
ACCELERATION = (
    *("max_error", "min_psnr", "calibration", "cache", "cache_ratios", "guidance_interval"),
)
# settings that only mean something beside pictures and clips, or make them
VISUAL = (
    *(*INPUTS, "video_start", "video_end", "strength", "interpolate", "fit"),
    *("image_guidance_scale", "via_image"),
)

# what a film of moved pictures has no use for
BESIDE_MOTION = ("image", "last_image", "video", "via_image", "preview_every")


def one_or_more(values: tuple[Any, ...]) -> Any:
    """The value of a setting that takes one or a list, as it is given and stands in recipes."""
    return list(values) if len(values) > 1 else next(iter(values), None)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """`t2v sample`; prompts are not settings, they come as arguments or from a file."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    # pipeline folder or Hub id whose other parts go with a model that is one .safetensors or .gguf
    # file, the weights of a transformer
    base: str | None = None
    # file to write, ending in .mp4 (H.264), .webm (VP9), .mov (ProRes 422 HQ, 10 bits), .gif, .png
    # (one frame) or / (a folder of numbered PNGs);
    # null: video.mp4, or the first of video-1.mp4, ... that is free
    output: str | None = None
    overwrite: bool = False  # replace files at the output that another command wrote
    negative_prompt: str = ""  # what the video should not show
    seed: int = 0  # of the first video; video i of a prompt takes seed + i
    height: int | None = None  # pixels; null: the model's own
    width: int | None = None  # pixels; null: the model's own
    num_frames: int | None = None  # frames of the video; null: the model's own
    duration: float | None = None  # seconds of the video, instead of num_frames
    # times as high and wide as it is made, by the model's upscaler; 1: the plain video; null: as
    # large as the upscaler makes it, if there is one
    upscale: int | None = None
    fps: float | None = None  # frames per second of the file; null: the model's own
    num_inference_steps: int | None = None  # denoising steps; null: the model's own
    guidance_scale: float | None = None  # weight of the prompt, 1: no guidance; null: the model's
    shift: float | None = None  # shift of the steps' times towards noise; null: the model's own
    # largest error of the latents to the exact ones, relative, such as 0.05: the fastest settings
    # whose bound in the table of `t2v calibrate` is below it are taken
    max_error: float | None = None
    min_psnr: float | None = None  # least dB of the frames to the exact film, by the same table
    calibration: str | None = None  # file of that table; null: the one in the model's folder
    # work that steps reuse: none, or a cache of diffusers and its value: first_block:0.1, mag:0.06,
    # taylor:3, pyramid:2, faster:2; it changes the video
    cache: str = "none"
    cache_ratios: tuple[float, ...] = ()  # of cache=mag: the model's, as `t2v calibrate` fits them
    # shares of the steps between which there is guidance, as [0,0.5]; empty: in all
    guidance_interval: tuple[float, ...] = ()
    num_videos_per_prompt: int = 1  # videos of each prompt
    best_of: int = 1  # seeds tried for each video; the scorer keeps the best
    # with best_of or grid: folder of `t2v scorer`, or a CLIP of transformers; null: the embedded
    # model's own scorer
    scorer: str | None = None
    keep_draws: bool = False  # with best_of, keep every candidate too, as X.seed-S.mp4
    attention: str = "native"  # attention backend, by diffusers' names, such as xformers
    # layout of attention, one or several that the layers take in turn, as in [full, window]: who
    # attends to whom; a model that was trained with another one makes other videos; empty: its own
    attention_layout: tuple[str, ...] = ()
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights
    # where weights wait until they are used: none (on the device), text (prompts are embedded
    # first, and encoders leave before transformers are read), in main memory, and come network by
    # network (model), block by block (group) or layer by layer (leaf, sequential); on a CPU, group
    # and leaf keep them on the disk; auto: on the device, or as `t2v plan sample` says where that
    # does not fit
    offload: Literal["auto", "none", "text", "model", "group", "leaf", "sequential"] = "auto"
    # number format of linear layers: none, fp8, int8 (torchao) or nf4 (bitsandbytes), for all
    # networks or for each, as in text_encoder=nf4,transformer=fp8; it changes the video
    quantize: str = "none"
    # compile the blocks of the transformer: faster steps after a first one that takes minutes more;
    # pixels change by rounding
    compile: bool = False
    # share of the tokens that the middle blocks of the transformer do without, from 0 to 0.75:
    # those most alike are computed as one; it changes the video
    token_merging: float = 0.0
    # what processes that torchrun starts split: auto (guidance between two halves where there is
    # any, then the sequence), guidance (of two processes), sequence (tokens, by diffusers' context
    # parallelism: Ulysses, which exchanges heads), ring (likewise; keys and values go round)
    parallel: Literal["auto", "guidance", "sequence", "ring"] = "auto"
    vae_tiling: bool = False  # decode in tiles that are blended, in less memory
    engine: Literal["local", "ray"] = "local"  # processes of this machine, or a Ray cluster
    # processes that each hold the model and make a video at a time; null: this one
    # alone, on Ray as many as there is room for
    workers: int | None = None
    sheet: bool = False  # also write one picture of all videos, X.sheet.png
    gif: bool = False  # also write each video as a GIF
    preview_every: int = 0  # steps between two preview pictures; 0: none
    truncate: bool = False  # cut a prompt that is too long instead of refusing it
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    codes: CodesConfig = field(default_factory=CodesConfig)  # of token generators: how they draw
    # LoRA file, or a folder (such as a checkpoint) that holds one; of several: [A, B]
    lora: tuple[str, ...] = ()
    # strength of each LoRA, or one for all; 0 is the model without it, bit for bit
    lora_scale: tuple[float, ...] = (1.0,)
    # transformer that each LoRA is for, or one for all, in a model with two (Wan 2.2 A14B: the
    # first is of high noise, the second of low); empty: the first
    lora_part: tuple[Literal["transformer", "transformer_2"], ...] = ()
    # a page of videos to choose by, X.html: without a LoRA, and with each alone at each lora_scale;
    # lora takes patterns too, such as runs/x/checkpoint-*
    grid: bool = False
    # the LoRA is the few-step one of this name: num_inference_steps, guidance_scale and shift that
    # are not given are those its authors sample with
    lora_preset: LoRAPresetName | None = None
    # of a LoRA that does not fit whole: refuse it, or take what fits and tell what is left out
    lora_fit: Literal["strict", "partial"] = "strict"
    image: str | None = None  # picture that the video begins with
    last_image: str | None = None  # picture that the video ends with
    # pictures of the video's subjects, in the order of the prompt: files, as A or [A, B]
    reference_images: tuple[str, ...] = ()
    # clip to go on from; with mask, strength or interpolate: the clip to change
    video: str | None = None
    video_start: float = 0.0  # seconds of the clip to leave out at its beginning
    video_end: float | None = None  # second of the clip to stop before; null: its end
    # picture or clip of the size of video: white is made anew, black is kept
    mask: str | None = None
    # how far from the clip an edit may go, from above 0 (hardly) to 1 (a new video); null: no edit
    strength: float | None = None
    # frames of the video for each step of the clip: 2 puts one between each two; null: no such task
    interpolate: int | None = None
    # of pictures and clips of another shape: crop their edges, pad with black, or pad and make what
    # is padded anew
    fit: Literal["crop", "pad", "outpaint"] = "crop"
    # weight of what is given as picture or clip, 1: no guidance of its own
    image_guidance_scale: float = 1.0
    via_image: bool = False  # sample a picture of the prompt first, X.png, and begin with it
    # of a model that makes pictures, or of ours by its pictures: pixels to the right and down from
    # each frame to the next, as [2,0]; empty: a video as the model makes it
    motion: tuple[float, ...] = ()

    # settings that take one value, or a list
    ONE_OR_MORE: ClassVar[tuple[str, ...]] = (
        *("lora", "lora_scale", "lora_part", "attention_layout", "reference_images"),
    )

    def __post_init__(self) -> None:
        for name in (
            "height",
            "width",
            "num_frames",
            "duration",
            "fps",
            "num_inference_steps",
            "shift",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value}: it must be more than 0.")
        if self.num_frames is not None and self.duration is not None:
            raise UserError(
                f"num_frames={self.num_frames} and duration={self.duration}: give one of them."
            )
        kinds_of(self.quantize)
        if self.compile and self.offload in ("group", "leaf", "sequential"):
            raise UserError(
                f"compile=true offload={self.offload}: blocks whose weights move in pieces are not "
                "compiled. Give offload=none, text or model, or leave compile out."
            )
        if self.compile and self.token_merging:
            raise UserError(
                f"compile=true token_merging={self.token_merging:g}: which tokens merge is found "
                "in every pass, and that is not compiled. Leave one out."
            )
        self._check_base()
        check_workers(self)
        at_least_one(self, "num_videos_per_prompt", "best_of")
        if self.best_of == 1 and (self.keep_draws or (self.scorer and not self.grid)):
            raise UserError(
                f"scorer={self.scorer} keep_draws={self.keep_draws}: they go with best_of=N, the "
                "number of draws to choose from."
            )
        self._check_loras()
        if self.lora_preset is not None:  # it stands for these, in recipes too
            from t2v.config.lora_presets import LORA_PRESETS  # few videos have one

            preset = LORA_PRESETS[self.lora_preset]
            for name in ("num_inference_steps", "guidance_scale", "shift"):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, getattr(preset, name))
        if self.preview_every < 0:
            raise UserError(f"preview_every={self.preview_every}: it must be at least 0.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: it must be from 0 to 2^63 - 1.")
        self._check_output()
        self._check_visuals()
        self._check_motion()
        if any(getattr(self, name) not in (None, "none", ()) for name in ACCELERATION):
            from t2v.config.caching import check_acceleration, check_budget  # few have any

            check_acceleration(self)
            check_budget(self)

    def _check_base(self) -> None:
        is_file = self.model.endswith((".safetensors", ".gguf"))
        if is_file and self.base is None:
            raise UserError(
                f"model={self.model}: one file has no VAE and no text encoder. Give base=FOLDER, a "
                "pipeline folder of the same model."
            )
        if self.base is not None and not is_file:
            raise UserError(
                f"base={self.base}: it goes together with model=FILE.safetensors or FILE.gguf, and "
                f"model is {self.model}. Leave base out."
            )
        if self.model.endswith(".gguf"):
            self._check_gguf()

    def _check_gguf(self) -> None:
        given = f"model={self.model}"
        if kind_of(self.quantize, "transformer") != "none":
            raise UserError(
                f"{given} quantize={self.quantize}: the file's weights are quantized already. "
                "Leave quantize out, or give it for the others, as quantize=text_encoder=fp8."
            )
        if self.offload in ("group", "leaf", "sequential"):
            raise UserError(
                f"{given} offload={self.offload}: such weights do not move in pieces. Give "
                "offload=text or offload=model."
            )

    @property
    def folder(self) -> str:
        """The pipeline folder, or its name: the model, or what a single file is put into."""
        return self.base or self.model

    def _check_loras(self) -> None:
        given: dict[str, Any] = {"lora_scale": self.lora_scale, "lora_part": self.lora_part}
        usual = {"lora_scale": (1.0,), "lora_part": ()}
        for name, values in given.items():
            shown = one_or_more(values)
            if not self.lora and values != usual[name]:
                raise UserError(f"{name}={shown}: it goes together with lora=FILE.")
            fits = len(values) in (1, len(self.lora)) or self.grid
            if self.lora and not fits and values != usual[name]:
                raise UserError(
                    f"{name}={shown}: {len(values)} values for {len(self.lora)} LoRA files. Give "
                    "one for all, or one for each."
                )
        if not all(map(isfinite, self.lora_scale)):
            raise UserError(f"lora_scale={one_or_more(self.lora_scale)}: give finite numbers.")
        given = {"lora_fit": self.lora_fit, "lora_preset": self.lora_preset}
        for name, value in given.items():
            if value not in ("strict", None) and not self.lora:
                raise UserError(f"{name}={value}: it goes together with lora=FILE.")
        if any(not path.strip() for path in self.lora):
            raise UserError("lora: a name is empty. Name a file, or leave it out.")

    @property
    def makes_picture(self) -> bool:
        """True where the output is a picture of one frame."""
        return self.output is not None and self.output.endswith(".png")

    def _check_output(self) -> None:
        if self.output is None:
            return
        if not self.output.endswith(tuple(OUTPUTS)):
            raise UserError(
                f"output={self.output}: the ending says what is written. Give a name that ends in "
                f"{', '.join(f'{ending} ({what})' for ending, what in OUTPUTS.items())}."
            )
        if self.output.endswith("/"):
            self._check_folder()
        if self.output.endswith(".gif") and self.gif:
            raise UserError(f"output={self.output} gif=true: it is a gif already. Leave gif out.")
        if not self.makes_picture:
            return
        asked = {name: getattr(self, name) for name in FILM if getattr(self, name)}
        if asked.get("num_frames") == 1:
            del asked["num_frames"]
        if asked:
            given = " ".join(f"{name}={value}" for name, value in asked.items())
            raise UserError(
                f"output={self.output} {given}: a png holds one frame. Leave {', '.join(asked)} "
                "out, or give a name that ends in .mp4."
            )

    def _check_folder(self) -> None:
        name = PurePath(self.output or "").name
        if not name or "." in name:
            raise UserError(
                f"output={self.output}: a folder of frames has a name without a dot. Give such a "
                "one, as frames/."
            )
        for setting in ("grid", "keep_draws"):
            if getattr(self, setting):
                raise UserError(
                    f"output={self.output} {setting}=true: it makes several files. Give a name "
                    "that ends in .mp4, or leave it out."
                )

    def _check_visuals(self) -> None:
        for name, path in self.files.items():
            if not path.strip():
                raise UserError(f"{name}={path}: it is empty. Name a file, or leave it out.")
            if "://" in path:
                raise UserError(f"{name}={path}: it is an address. Download it, and name the file.")
        for name in ("mask", "strength", "interpolate", "video_start", "video_end"):
            value = getattr(self, name)
            if value not in (None, 0) and self.video is None:
                raise UserError(f"{name}={value}: it goes with a clip. Give video=FILE too.")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UserError(f"strength={self.strength}: it must be more than 0 and at most 1.")
        if self.fit == "outpaint" and self.video is None:
            raise UserError("fit=outpaint: it goes with a clip. Give video=FILE, or fit=pad.")
        end = float("inf") if self.video_end is None else self.video_end
        if not 0 <= self.video_start < end:
            raise UserError(
                f"video_start={self.video_start:g} video_end={end:g}: give seconds from 0 on, the "
                "first before the second."
            )
        if self.image_guidance_scale != 1 and not self.has_visuals:
            raise UserError(
                f"image_guidance_scale={self.image_guidance_scale:g}: it weighs a picture or clip. "
                "Give image=FILE, last_image=FILE, video=FILE or reference_images=FILE, or leave "
                "it out."
            )
        apart = [name for name in FIRST if getattr(self, name) not in (None, False)]
        if len(apart) > 1:
            raise UserError(
                f"{' and '.join(apart)}: each says how the video begins. Give one of them."
            )
        changes = [name for name in CHANGES if getattr(self, name) is not None]
        changes += ["fit=outpaint"] if self.fit == "outpaint" else []
        may_be_both = set(changes) in ({"mask", "strength"}, {"mask", "fit=outpaint"})
        if self.video is not None and len(changes) > 1 and not may_be_both:
            raise UserError(
                f"{' and '.join(changes)}: each is a change of its own. Give one of them."
            )
        if self.interpolate is not None:
            check_interpolation(self)

    def _check_motion(self) -> None:
        given = f"motion={list(self.motion)}"
        if self.motion and (len(self.motion) != 2 or not all(map(isfinite, self.motion))):
            raise UserError(
                f"{given}: give two numbers, pixels to the right and down from each frame to the "
                "next, as motion=[2,0]."
            )
        others = [name for name in BESIDE_MOTION if getattr(self, name) not in (None, False, 0)]
        if self.motion and others:
            raise UserError(
                f"{given} and {', '.join(others)}: what moves is a picture of the prompt. Leave "
                f"motion or {' and '.join(others)} out."
            )

    @property
    def files(self) -> dict[str, str]:
        """The pictures and clips that are named, by the setting."""
        named = {name: getattr(self, name) for name in INPUTS if name != REFERENCES}
        named |= {f"{REFERENCES}[{n}]": path for n, path in enumerate(self.reference_images)}
        return {name: path for name, path in named.items() if path is not None}

    @property
    def sees(self) -> tuple[str, ...]:
        """The settings that give the video something to see, and are given."""
        names = (*INPUTS, "strength")
        return tuple(name for name in names if getattr(self, name) not in (None, ()))

    @property
    def has_visuals(self) -> bool:
        """True where a picture or clip is given, or one is made first."""
        names = (*FIRST, "last_image", REFERENCES)
        return any(getattr(self, name) not in (None, False, ()) for name in names)
