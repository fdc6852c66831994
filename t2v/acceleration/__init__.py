"""What work left out of the denoising costs and brings: measured, kept with a model, looked up."""
