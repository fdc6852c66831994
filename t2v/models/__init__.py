"""Networks for one device.

Axes: `b` batch, `c` channels, `t h w` frames height width, `n` video tokens, `m` text tokens,
`d` width, `k` heads. Video is always `b c t h w`.
"""
