"""Attention among the tokens of a video: the layer, and the layouts of who attends to whom."""
