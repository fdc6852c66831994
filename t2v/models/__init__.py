"""Networks for one device.

Axes: `b` batch, `c` channels, `t h w` frames height width, `n` video tokens, `m` text tokens,
`d` width, `k` heads. Video is always `b c t h w`.
"""

# diffusers registers our pipeline as soon as it has its own (see `t2v`), and the pipeline needs
# the modules of this folder: none of them may be half imported by then
import diffusers.pipelines.pipeline_utils  # noqa: F401
