"""Reads footage of any kind with PyAV; nothing is imported here: `t2v.io.video` needs one part."""
