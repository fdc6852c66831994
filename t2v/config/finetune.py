"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one, not_negative
from t2v.config.models import MOST_TOKENS
from t2v.config.training import DiffusionConfig, OptimConfig
from t2v.errors import UserError

Method = Literal[
    "lora",
    "peft",
    "full",
    "frozen_spatial",
    "concept",
    "soft_prompt",
    "embedding",
    "memory",
    "motion",
]
TOKENS = (
    "concept",
    "soft_prompt",
    "embedding",
    "memory",
    "motion",
)  # methods that train tokens alone


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """The matrices that `method=lora` adds beside the frozen weights (arXiv 2106.09685)."""

    rank: int = 16  # of the added matrices
    alpha: float = 16.0  # strength: the change is multiplied by alpha / rank
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # ends of layer names

    def __post_init__(self) -> None:
        at_least_one(self, "rank")
        if not self.alpha > 0:
            raise UserError(f"alpha={self.alpha}: it must be more than 0.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(DiffusionConfig):
    """`t2v finetune`: a saved pipeline learns new footage."""

    ONE_OR_MORE: ClassVar[tuple[str, ...]] = ("attention_layout", "text_encoder.layer")
    # paths that a file of settings may tell from its own folder
    BESIDE_FILE: ClassVar[tuple[str, ...]] = ("base_prompts", "peft", "text_encoder.second")

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    # what learns: lora; peft: any adapter of peft; full: the whole transformer; frozen_spatial: its
    # parts that mix frames alone; concept: new words alone; soft_prompt: that alone; embedding:
    # tokens before the embedded prompt, behind the text encoder; memory: tokens of each block
    # beside those of the text; motion: tokens of each latent frame, of one clip's motion
    method: Method = "lora"
    # who attends to whom, one word or several that the layers take in turn, as model.attention of
    # `t2v train`; what a layout needs begins at zero, and is learned; empty: as the model has it
    attention_layout: tuple[str, ...] = ()
    # with method=full: tokens, learned from all of them, that the middle blocks compute in their
    # place from now on; 0: as the model has it
    learned_tokens: int = 0
    whole_blocks: tuple[int, int] = (2, 1)  # with learned_tokens: first and last that compute all
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    # of two transformers, one for the noisier times (Wan 2.2 A14B), those that learn
    experts: Literal["both", "high", "low"] = "both"
    # with method=peft: JSON of peft's settings, as configs/finetune/*.json; in a --config file,
    # from its folder
    peft: str | None = None
    soft_prompt: str | None = None  # words that start the learned tokens before every prompt
    # words whose embedding the tokens of method=embedding begin as; those of method=motion begin as
    # that of the first one, or of `it`
    embedding: str | None = None
    memory_tokens: int = 8  # tokens of each block, with method=memory
    motion_tokens: int = 2  # tokens of each latent frame, with method=motion
    shared_tokens: int = 2  # likewise, tokens that all frames see
    concept: tuple[str, ...] = ()  # new words to learn, as the captions spell them: "<toy>"
    concept_from: tuple[str, ...] = ()  # text that starts each new word; empty: its own letters
    # let the text encoder learn too, with method=full, or by a LoRA of its own with method=lora
    train_text_encoder: bool = False
    # number format of weights that do not learn, with an adapter, new words or a soft prompt; auto:
    # bf16 on CUDA where precision=bf16, else fp32. fp8, int8 and nf4 (QLoRA) round the matrices of
    # the transformer
    base_dtype: Literal["auto", "fp32", "bf16", "fp8", "int8", "nf4"] = "auto"
    # last blocks of the frozen transformer whose weights wait in the CPU's memory for their turn:
    # less on the device, and slower
    swap_blocks: int = 0
    # checkpoints hold: adapter: what was learned, and where the base model is; full: all weights;
    # the methods full and frozen_spatial always save them
    save: Literal["adapter", "full"] = "adapter"
    interpolate: float = 1.0  # the saved model, from 0 (the base) to 1 (the tuned one)
    # file of prompts, one a line, that must not be forgotten; in a --config file, from its folder
    base_prompts: str | None = None
    base_ratio: float = 0.0  # share of the steps on the base model's own videos of base_prompts
    steps: int = 500
    batch_size: int = 8
    save_every: int = 100
    validate_every: int = 100
    held_out: int = 4  # the last clips of the data, kept for validation
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            name="adamw", adam_lr=1e-4, warmup_steps=20, ema_decay=0.99
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_from is not None:
            raise UserError(f"start_from={self.start_from}: fine-tuning starts from model=FOLDER.")
        if self.text_encoder.changes() and self.train_text_encoder and self.method == "lora":
            raise UserError(
                "text_encoder.* with train_text_encoder=true method=lora: an adapter is of the "
                "encoder as it was saved. Leave one out, or give method=full."
            )
        if self.train_text_encoder and self.method not in ("full", "lora"):
            raise UserError(
                f"train_text_encoder=true goes with method=full or method=lora, not {self.method}."
            )
        not_negative(self, "swap_blocks")
        if self.swap_blocks and (self.learns_whole() or self.parallel == "fsdp"):
            raise UserError(
                f"swap_blocks={self.swap_blocks} with method={self.method} parallel={self.parallel}"
                ": only frozen weights wait, beside an adapter, concept or soft_prompt, and fsdp "
                "splits them already. Leave it out."
            )
        if self.compile and (self.swap_blocks or self.quantizes()):
            raise UserError(
                f"compile=true swap_blocks={self.swap_blocks} base_dtype={self.base_dtype}: blocks "
                "whose weights move or are quantized are not compiled. Leave compile out."
            )
        if self.base_dtype == "bf16" and self.needs_fp32():
            raise UserError(
                f"base_dtype=bf16 with method={self.method} precision={self.precision} interpolate="
                f"{self.interpolate}: it is for an adapter, concept or soft_prompt, precision=bf16 "
                "and interpolate=1. Leave it out."
            )
        self._check_quantized()
        if not 0 <= self.interpolate <= 1:
            raise UserError(
                f"interpolate={self.interpolate}: it must be from 0 (base) to 1 (tuned model)."
            )
        if self.interpolate < 1 and self.method in TOKENS:
            raise UserError(
                f"interpolate={self.interpolate} with method={self.method}: what is learned is "
                "new, and the base model has nothing that it could lie between. Leave it out."
            )
        if not 0 <= self.base_ratio < 1 or (self.base_ratio and self.base_prompts is None):
            raise UserError(
                f"base_ratio={self.base_ratio}: it must be 0 or more and below 1, together with "
                "base_prompts=FILE."
            )
        if (self.method == "peft") != (self.peft is not None):
            raise UserError(
                f"method={self.method} peft={self.peft}: method=peft and peft=FILE go together."
            )
        self._check_concept()

    def learns_whole(self) -> bool:
        """Return whether weights of the transformer itself learn."""
        return self.method in ("full", "frozen_spatial")

    def learns_text(self) -> bool:
        """Return whether weights of the text encoder learn: of all words, or of new ones."""
        return self.train_text_encoder or bool(self.concept) or self.soft_prompt is not None

    def quantizes(self) -> bool:
        """Return whether the matrices of the transformer are held in fewer than 16 bits."""
        return self.base_dtype in ("fp8", "int8", "nf4")

    def needs_fp32(self) -> bool:
        """Return whether the base model must be held in float32."""
        return self.learns_whole() or self.precision == "fp32" or self.interpolate < 1

    def _check_quantized(self) -> None:
        if not self.quantizes():
            return
        if self.learns_whole() or self.interpolate < 1 or self.parallel == "fsdp":
            raise UserError(
                f"base_dtype={self.base_dtype} with method={self.method} interpolate="
                f"{self.interpolate} parallel={self.parallel}: rounded weights neither learn nor "
                "are mixed or split. It is for an adapter, concept or soft_prompt, interpolate=1 "
                "and parallel=ddp."
            )
        if self.swap_blocks and self.base_dtype != "fp8":
            raise UserError(
                f"base_dtype={self.base_dtype} swap_blocks={self.swap_blocks}: such weights do not "
                "move in pieces. Give base_dtype=fp8, or leave swap_blocks out."
            )

    def _check_motion(self) -> None:
        for name in ("motion_tokens", "shared_tokens"):
            if not 0 <= (count := getattr(self, name)) <= MOST_TOKENS // 16:
                raise UserError(f"{name}={count}: it must be from 0 to {MOST_TOKENS // 16}.")
        if not self.motion_tokens + self.shared_tokens:
            raise UserError("motion_tokens=0 shared_tokens=0: nothing would learn. Raise one.")

    def _check_concept(self) -> None:
        if self.method == "concept" and not self.concept:
            raise UserError('method=concept learns new words: name them, concept=["<toy>"].')
        if self.method == "soft_prompt" and self.soft_prompt is None:
            raise UserError('method=soft_prompt: give soft_prompt="WORDS" to start from.')
        if self.method == "motion":
            self._check_motion()
        elif (self.method == "embedding") != (self.embedding is not None):
            raise UserError(
                f"method={self.method} embedding={self.embedding}: method=embedding and "
                'embedding="WORDS" to start from go together.'
            )
        if not 0 < self.memory_tokens <= MOST_TOKENS:
            raise UserError(
                f"memory_tokens={self.memory_tokens}: it must be from 1 to {MOST_TOKENS}."
            )
        if self.concept_from and len(self.concept_from) != len(self.concept):
            raise UserError(
                f"concept={list(self.concept)} and concept_from={list(self.concept_from)}: "
                "give one text for each new word, or none."
            )
        if (self.concept or self.soft_prompt is not None) and self.optim.weight_decay:
            raise UserError(
                f"optim.weight_decay={self.optim.weight_decay} would shrink all words while new "
                "ones are learned. Set it to 0."
            )
