"""Every setting of t2v and its default; imports no torch."""

from t2v.config.curation import CurateConfig
from t2v.config.data import ClipsConfig, EncodeConfig, StageConfig
from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.models import TransformerConfig, VAEConfig
from t2v.config.plan import PlanConfig
from t2v.config.sampling import BenchConfig, ConvertConfig, SampleConfig
from t2v.config.scorer import ScorerConfig, TowersConfig
from t2v.config.training import (
    DiscriminatorConfig,
    OptimConfig,
    TrainConfig,
    TrainDiTConfig,
    TrainVAEConfig,
)
from t2v.config.world import WorldConfig

__all__ = [
    "BenchConfig",
    "ClipsConfig",
    "CompareConfig",
    "ConvertConfig",
    "CurateConfig",
    "DiscriminatorConfig",
    "EncodeConfig",
    "EvalConfig",
    "FinetuneConfig",
    "LoRAConfig",
    "OptimConfig",
    "PlanConfig",
    "SampleConfig",
    "ScorerConfig",
    "StageConfig",
    "TowersConfig",
    "TrainConfig",
    "TrainDiTConfig",
    "TrainVAEConfig",
    "TransformerConfig",
    "VAEConfig",
    "WorldConfig",
]
