"""`quantize`: one format for all networks, or for each by its name."""

import pytest

from t2v.config.checks import kind_of
from t2v.config.evaluation import EvalConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError


def test_a_network_has_the_format_of_its_name_else_of_its_kind_else_of_all():
    parts = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "image_encoder")
    for value, kinds in {
        "fp8": ("fp8", "fp8", "fp8", "fp8", "fp8"),
        "text_encoder=nf4,transformer=fp8": ("fp8", "fp8", "nf4", "nf4", "none"),
        "transformer=int8, transformer_2=none": ("int8", "none", "none", "none", "none"),
    }.items():
        assert tuple(kind_of(value, part) for part in parts) == kinds


@pytest.mark.parametrize(
    "value", ["", "fp4", "fp8,nf4", "vae=fp8", "transformer=", "transformer=fp8,transformer=nf4"]
)
def test_what_names_no_format_or_no_network_is_one_message(value):
    for make in (SampleConfig, lambda **given: EvalConfig(output="x", **given)):
        with pytest.raises(UserError, match="give one of none, fp8, int8, nf4 for all networks"):
            make(quantize=value)
