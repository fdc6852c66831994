"""Words that other programs have for settings."""

from collections.abc import Container

OTHER_WORDS = {
    "cfg": ("guidance_scale",),
    "cfg_scale": ("guidance_scale",),
    "frames": ("num_frames",),
    "guidance": ("guidance_scale",),
    "learning_rate": ("optim.lr", "lr"),
    "length": ("num_frames", "duration"),
    "lr": ("optim.lr",),
    "sampling_steps": ("num_inference_steps",),
    "steps": ("num_inference_steps",),
}


def meant(word: str, known: Container[str]) -> list[str]:
    """Return the names among `known` settings that another program's word stands for."""
    return [each for each in OTHER_WORDS.get(word, ()) if each in known]
