"""The parts of a saved model that learn: an adapter in its layers, some layers, or new words."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from t2v.config.finetune import TOKENS, FinetuneConfig, LoRAConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError, shortened
from t2v.io.text_files import read_json
from t2v.models.attention.layouts import stack
from t2v.models.context_tokens import context_tokens
from t2v.models.device import DTYPES, pick_device
from t2v.models.hold import PROBED, Kind, quantize
from t2v.models.kernels.precision import picked_precision
from t2v.models.learned import fuse
from t2v.models.load import loading
from t2v.models.lora_effect import prediction
from t2v.models.lora_file import require_peft
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.engine.loop import autocast

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"\.\d+\.")
SAME = 1e-3  # what float32 may lose on the way through other shapes of the same numbers
WAKING = 0.02
REFUSED = {"ADALORA": "moves its ranks about while it trains, which this loop lacks. Take LORA."}


def choose_trainable(model: nn.ModuleDict, config: FinetuneConfig) -> None:
    """Freeze the transformers and the `text_encoder` but what `config.method` trains; logs counts.

    New words (`add_words`) and the adapter (`add_lora`, `add_peft`) must be in place.

    Raises:
        UserError: nothing would learn.
    """
    text_encoder = model["text_encoder"]
    denoisers = [part for name, part in model.items() if name != "text_encoder"]
    for transformer in denoisers:
        chosen = _chosen(config, transformer)
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(chosen(name))
    for name, parameter in text_encoder.named_parameters():
        is_whole = config.method == "full" or ".lora_" in name
        parameter.requires_grad_(config.train_text_encoder and is_whole)
    if config.concept or config.soft_prompt is not None:
        text_encoder.get_input_embeddings().weight.requires_grad_(True)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    if not learning:
        raise UserError(f"method={config.method} leaves nothing to learn in this model.")
    logger.info(
        "method=%s trains %s weights of the transformer, %s of the text encoder%s",
        *(config.method, " and ".join(map(_count, denoisers)), _count(text_encoder)),
        _rows(config),
    )
    layers = [re.sub(r"(\.[^.]+\.default.*|\.weight|\.bias)$", "", name) for name in learning]
    logger.info("trained: %s", ", ".join(dict.fromkeys(NUMBER.sub(".*.", each) for each in layers)))


def _rows(config: FinetuneConfig) -> str:
    words = [*config.concept, *(["the soft prompt"] if config.soft_prompt is not None else [])]
    return f" (the rows of {', '.join(words)})" if words else ""


def _count(part: nn.Module) -> str:
    sizes = [(_numbers(p), p.requires_grad) for p in part.parameters()]
    return f"{sum(n for n, learns in sizes if learns)} of {sum(n for n, _ in sizes)}"


def _numbers(parameter: nn.Parameter) -> int:
    """The count of the numbers in a parameter; a byte of nf4 holds two of 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _chosen(config: FinetuneConfig, transformer: T2VTransformer3DModel) -> Callable[[str], bool]:
    if config.method == "full":
        return lambda name: True
    if config.method in ("lora", "peft"):
        added = {name for name, p in transformer.named_parameters() if p.requires_grad}
        return lambda name: name in added  # peft froze the rest
    if config.method in TOKENS:
        learned = context_tokens(transformer)
        return lambda name: name in learned
    starts = tuple(
        f"blocks.{number}.{part}."
        for number, block in enumerate(transformer.blocks)
        for part in block.chosen.motion
    )
    return lambda name: name.startswith(starts)


def check_motion(transformer: T2VTransformer3DModel, config: FinetuneConfig) -> None:
    """Raise `UserError` for `method=frozen_spatial` where no weights mix frames alone."""
    if config.method != "frozen_spatial":
        return
    settings = transformer.config
    words = config.attention_layout or settings.attention
    layers = stack(words, settings.num_layers, settings.num_attention_heads)
    if any(chosen.motion for chosen in layers):
        return
    given = ",".join(dict.fromkeys(chosen.word for chosen in layers))
    raise UserError(
        f"method=frozen_spatial: tokens attend by {given} here, one attention for space and time, "
        "so no weights are those of time. Add an attention along time with "
        "attention_layout=factorized, or train all self-attention with method=lora "
        "lora.target_modules=[attn1.to_q,attn1.to_k,attn1.to_v,attn1.to_out.0]."
    )


def lay_out(transformer: T2VTransformer3DModel, config: FinetuneConfig) -> None:
    """Have tokens attend by `config.attention_layout`, and some blocks compute
    `config.learned_tokens`, where they are given, and add what that needs.

    Raises:
        UserError: there is no such layout, or its parts would not learn.
    """
    if config.learned_tokens:
        from t2v.models.token_learner import add_learner  # few models have one

        learns = config.method == "full"
        drawn = keyed_generator(config.seed, "learned_tokens") if learns else None
        add_learner(transformer, config.learned_tokens, config.whole_blocks, drawn)
    if config.attention_layout:
        learns = config.learns_whole()
        generator = keyed_generator(config.seed, "attention_layout") if learns else None
        transformer.set_attention(config.attention_layout, generator)


def add_adapter(transformer: T2VTransformer3DModel, config: FinetuneConfig) -> None:
    """Put the adapter of `config.method`, if it has one, beside the layers.

    Raises:
        UserError: see `add_lora` and `add_peft`.
    """
    if config.method == "lora":
        add_lora(transformer, config.lora, config.seed)
    elif config.peft is not None:
        add_peft(transformer, config.peft, config.seed)


def add_lora(transformer: T2VTransformer3DModel, config: LoRAConfig, seed: int) -> None:
    """Put a fresh LoRA beside the target layers: A random, B zero, so nothing changes yet.

    Raises:
        UserError: peft is missing, or a target names no layer that can carry one.
    """
    require_peft()
    from peft import LoraConfig

    layers = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv3d)
    ]
    for target in config.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = dict.fromkeys(re.sub(r"^blocks\.\d+\.", "", name) for name in layers)
            near = get_close_matches(target, ends, n=3, cutoff=0.4) or list(ends)
            raise UserError(
                f"lora.target_modules: no layer is called {target!r}. Near: {', '.join(near)}."
            )
    if not config.target_modules:
        raise UserError("lora.target_modules=[] leaves nothing to learn. Name layers: to_q, to_v.")
    targets = list(config.target_modules)
    transformer.add_adapter(
        LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets)
    )
    _begin_lora(transformer, seed, "lora")


def add_text_lora(text_encoder: PreTrainedModel, config: FinetuneConfig) -> None:
    """Put a fresh LoRA beside all linear layers of a text encoder that learns by one.

    Raises:
        UserError: peft is missing.
    """
    if not config.train_text_encoder or config.method != "lora":
        return
    require_peft()
    from peft import LoraConfig

    rank, alpha = config.lora.rank, config.lora.alpha
    added = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        text_encoder.add_adapter(added)
    added.base_model_name_or_path = None  # a path of this machine
    text_encoder.eval()
    _begin_lora(text_encoder, config.seed, "text lora")


def _begin_lora(network: nn.Module, seed: int, key: str) -> None:
    for name, weight in network.named_parameters():
        if ".lora_A." in name:  # peft initialises from the global random state
            generator = keyed_generator(seed, key, name)
            nn.init.kaiming_uniform_(weight.data, a=5**0.5, generator=generator)


def add_peft(transformer: T2VTransformer3DModel, file: str, seed: int) -> None:
    """Put a fresh adapter of any kind that peft can add into weights beside the layers.

    Args:
        file: peft's own settings as JSON, `{"peft_type": "LOKR", "target_modules": ["to_q"]}`.

    Raises:
        UserError: peft is missing, or the file or what it asks for is not possible.
    """
    require_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    with loading(f"peft={file}"):
        values: dict[str, Any] = read_json(Path(file), most=2**20)
        kinds = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
        if not isinstance(values, dict) or values.get("peft_type") not in kinds:
            raise ValueError(f'It must hold "peft_type", one of {", ".join(kinds)}.')
        if values["peft_type"] in REFUSED:
            raise ValueError(f"{values['peft_type']} {REFUSED[values['peft_type']]}")
        if chance := [name for name, value in values.items() if "dropout" in name and value]:
            raise ValueError(f"{chance[0]} is sampled by peft itself, so no run could be repeated.")
        with torch.random.fork_rng(devices=[]):  # peft initialises from the global random state
            torch.manual_seed(seed)
            transformer.add_adapter(PEFT_TYPE_TO_CONFIG_MAPPING[values["peft_type"]](**values))
    transformer.eval()  # in training mode some of its layers use the global random state


def held_in(config: FinetuneConfig) -> torch.dtype:
    """The number format of the weights that do not learn, but for those that are quantized."""
    if config.quantizes():
        return DTYPES[picked_precision(config.precision, pick_device(config.device))]
    if config.base_dtype != "auto":
        return DTYPES[config.base_dtype]
    is_cuda = pick_device(config.device).type == "cuda"
    return torch.bfloat16 if is_cuda and not config.needs_fp32() else torch.float32


def hold_base(transformer: Any, config: FinetuneConfig) -> None:
    """Hold what does not learn as `config.base_dtype` says; an adapter is beside it already."""
    dtype = held_in(config)
    if config.quantizes():
        with autocast(config):  # of which the error is measured
            error = quantize(transformer, cast(Kind, config.base_dtype), dtype)
        logger.info(
            "base_dtype=%s: products of the frozen linear layers are off by %.2g %% (the middle "
            "one of at most %d)",
            *(config.base_dtype, 100 * error, PROBED),
        )
    if dtype != torch.float32:
        _hold_in(transformer, dtype)
    if config.quantizes() and config.peft is not None:
        _check_beside(transformer, config)


def _check_beside(transformer: Any, config: FinetuneConfig) -> None:
    """Raise `UserError` for an adapter of peft that reads the weights as plain numbers."""
    try:
        with autocast(config):
            prediction(transformer)
    except (RuntimeError, AttributeError, TypeError, LookupError, ValueError) as error:
        raise UserError(
            f"peft={config.peft} base_dtype={config.base_dtype}: this kind of adapter does not "
            f"compute beside such weights ({shortened(str(error), 200)}). Take LORA, OFT or MISS, "
            "or base_dtype=bf16."
        ) from error


@torch.no_grad()
def _hold_in(transformer: Any, dtype: torch.dtype) -> None:
    """Hold the frozen matrices and kernels in `dtype`, to which autocast rounds them at every use.

    So no bit of the training loss changes. What learns and what is computed in float32 stays.
    """
    kept = set(transformer._keep_in_fp32_modules or ())
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and not kept & set(name.split(".")):
            for weight in module.parameters(recurse=False):
                is_plain = type(weight) is nn.Parameter and weight.dtype == torch.float32
                if is_plain and not weight.requires_grad:
                    weight.data = weight.data.to(dtype)


@torch.no_grad()
def check_peft(transformer: T2VTransformer3DModel, file: str) -> None:
    """See that a fresh adapter leaves the model as it is, and that a trained one can be saved.

    The second with noise on all that learns: added into the weights it must answer the same.

    Raises:
        UserError: it does not.
    """
    woken = deepcopy(transformer)
    plain = deepcopy(transformer)
    plain.unload_lora()
    base, fresh = prediction(plain), prediction(transformer)
    if (moved := _apart(fresh, base)) > SAME:
        raise UserError(
            f"peft={file}: before it has learned it changes the model by {100 * moved:.3g} %. "
            "Choose the start of its weights so that it changes nothing."
        )
    for name, weight in woken.named_parameters():
        if weight.requires_grad:
            noise = torch.randn(weight.shape, generator=keyed_generator("woken", name))
            weight.add_(noise.to(weight), alpha=WAKING)
    tuned = prediction(woken)
    with loading(f"peft={file}"):  # what peft cannot add into weights it refuses
        whole = merged(woken)
        added = prediction(whole)
    with torch.device("meta"):
        own = type(transformer).from_config(transformer.config)
    if odd := sorted(whole.state_dict().keys() ^ own.state_dict().keys()):
        raise UserError(
            f"peft={file}: the saved model would hold other weights than such a model has "
            f"({', '.join(odd[:3])}). Leave out what trains whole layers, such as modules_to_save."
        )
    if torch.equal(tuned, base) or _apart(added, tuned) > SAME:
        raise UserError(
            f"peft={file}: this kind changes nothing, or cannot be added into the weights. "
            "Take another, such as LOKR, LOHA, OFT or IA3."
        )


def _apart(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def merged(transformer: T2VTransformer3DModel) -> T2VTransformer3DModel:
    """A copy of a transformer with what its adapter changes added into the weights."""
    copy = deepcopy(transformer)
    fuse(copy, 1.0)
    copy.unload_lora()
    return copy


@torch.no_grad()
def interpolated(base: nn.Module, tuned: nn.Module, share: float) -> nn.Module:
    """A copy of `tuned` whose weights lie on the line from `base` (`share` 0) to `tuned` (1).

    Between them there is often a model that knows the new and keeps the old (WiSE-FT,
    arXiv 2109.01903). The two have the same parameters.
    """
    copy = deepcopy(tuned)
    own = dict(base.named_parameters())
    for name, parameter in copy.named_parameters():
        parameter.copy_(own[name].to(parameter).lerp(parameter, share))
    return copy
