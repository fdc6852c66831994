"""Pipelines: text in, video out."""

# as in `t2v.models`: none of these modules may be half imported when diffusers registers ours
import diffusers.pipelines.pipeline_utils  # noqa: F401
