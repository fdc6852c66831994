"""The figures of docs/acceleration.md: caches on Wan-shaped weights, and bounds on unseen prompts.

python docs/figures/acceleration.py wan FOLDER             random weights, 30M parameters
python docs/figures/acceleration.py caches FOLDER [COUNT]  each cache at 2,880 tokens
python docs/figures/acceleration.py unseen MODEL TABLE [COUNT] [ROWS]  bounds on new prompts
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from t2v.acceleration.measure import accelerated, measure, relative_error
from t2v.acceleration.table import Setting, read_tables, worth_it
from t2v.evaluation.suites import heldout_prompts, load_suite
from t2v.families.load import load_generator
from t2v.models.folder import EMBEDDED, model_folder

CPU, STEPS, TEXT = torch.device("cpu"), 8, 512
CACHES = ("first_block:1.2", "mag:0.12", "taylor:2", "taylor:3", "pyramid:2", "faster:2")


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@torch.no_grad()
def woken(module: nn.Module) -> nn.Module:
    """Noise on every parameter: a fresh network leaves its gates closed."""
    generator = torch.Generator().manual_seed(0)
    for each in module.parameters():
        fan_in = each[0].numel() if each.ndim > 1 else 100
        each.add_(torch.randn(each.shape, generator=generator), alpha=fan_in**-0.5)
    return module.eval()


def wan(folder: str) -> None:
    """Wan's pipeline at width 384 and 12 layers, with a text encoder and a VAE that cost little."""
    words = sorted(
        {word for each in load_suite("general", 999, 0).prompts for word in each.split()}
    )
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    text = T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary), d_model=TEXT, d_kv=64, d_ff=512, num_layers=1, num_heads=2,
            pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
        )
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=6, attention_head_dim=64, in_channels=16,
        out_channels=16, text_dim=TEXT, freq_dim=256, ffn_dim=1536, num_layers=12,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    WanPipeline(
        tokenizer=tokenizer, text_encoder=woken(text), transformer=woken(transformer),
        vae=woken(vae), scheduler=scheduler, transformer_2=None,
    ).save_pretrained(folder)  # fmt: skip
    tell(f"{sum(each.numel() for each in transformer.parameters())} parameters")


def caches(folder: str, count: str = "2") -> None:
    """The error and the speed of each cache at 2,880 tokens, without guidance."""
    generator = load_generator(folder, Path(folder), CPU, torch.float32, "figures")
    generator.pipeline.set_progress_bar_config(disable=True)
    asked = replace(
        generator.defaults, height=384, width=384, num_frames=17, num_inference_steps=STEPS,
        guidance_scale=1.0, upscale=1,
    )  # fmt: skip
    settings = [Setting(num_inference_steps=STEPS, cache=each) for each in CACHES]
    settings.append(Setting(num_inference_steps=STEPS // 2))
    prompts = load_suite("general", 999, 0).prompts[: int(count)]
    for row in measure(generator, asked, settings, prompts):
        tell(f"{row.setting} {row.reason or row.measured}")


def unseen(model: str, table: str, count: str = "64", most: str = "99") -> None:
    """The share of prompts, none of which were measured, whose error each row's bound covers."""
    folder = model_folder(model)
    generator = load_generator(model, folder, CPU, torch.float32, "figures")
    generator.pipeline.set_progress_bar_config(disable=True)
    (found,) = read_tables(Path(table))
    steps, (frames, height, width) = found.exact.num_inference_steps, found.exact.size
    asked = replace(
        generator.defaults, height=height, width=width, num_frames=frames, upscale=1,
        num_inference_steps=steps, guidance_scale=found.exact.guidance_scale,
    )  # fmt: skip
    if model == EMBEDDED:
        prompts = heldout_prompts(int(count), 7)[1]
    else:
        prompts = list(load_suite("general", 999, 0).prompts[-int(count) :])
    rows = [found.rows[index] for index in worth_it(found.rows)[: int(most)]]
    errors: list[list[float]] = [[] for _ in rows]
    for index, prompt in enumerate(prompts):
        seed = 10_000 + index
        exact = generator.generate(generator.encode([prompt], asked), asked, [seed])
        for row, own in zip(rows, errors, strict=True):
            request = accelerated(asked, row.setting)
            made = generator.generate(generator.encode([prompt], request), request, [seed])
            own.append(relative_error(made, exact))
    for row, own in zip(rows, errors, strict=True):
        kept = sum(each <= row.measured.most_error for each in own)
        tell(
            f"{row.setting}: at most {row.measured.most_error:.4f} on {kept} of {len(own)}, "
            f"median {sorted(own)[len(own) // 2]:.4f}, largest {max(own):.4f}"
        )


if __name__ == "__main__":
    {"wan": wan, "caches": caches, "unseen": unseen}[sys.argv[1]](*sys.argv[2:])
