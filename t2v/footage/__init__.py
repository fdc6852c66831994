"""Reading of footage with PyAV; nothing is imported here: `t2v.io.video` needs one part."""
