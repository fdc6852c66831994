"""The price of work that the denoising leaves out: measured, and kept with a model."""
