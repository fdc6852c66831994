"""`t2v sample`: prompts become mp4 files, and nothing that was finished is lost."""

from t2v.sampling.run import repeat, resume, sample

__all__ = ["repeat", "resume", "sample"]
