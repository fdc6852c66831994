"""Every setting of t2v and its default; imports no torch."""

from t2v.config.curation import CurateConfig
from t2v.config.data import ClipsConfig, EncodeConfig, StageConfig
from t2v.config.evaluation import CompareConfig, EvalConfig, ScorerConfig
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.models import TransformerConfig, VAEConfig
from t2v.config.plan import PlanConfig
from t2v.config.sampling import BenchConfig, ConvertConfig, SampleConfig
from t2v.config.training import OptimConfig, TrainConfig, TrainDiTConfig, TrainVAEConfig
from t2v.config.world import WorldConfig

__all__ = [
    "BenchConfig",
    "ClipsConfig",
    "CompareConfig",
    "ConvertConfig",
    "CurateConfig",
    "EncodeConfig",
    "EvalConfig",
    "FinetuneConfig",
    "LoRAConfig",
    "OptimConfig",
    "PlanConfig",
    "SampleConfig",
    "ScorerConfig",
    "StageConfig",
    "TrainConfig",
    "TrainDiTConfig",
    "TrainVAEConfig",
    "TransformerConfig",
    "VAEConfig",
    "WorldConfig",
]
