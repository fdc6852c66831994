"""Footage to clips: stages that score, tag and drop them, and the driver that runs the stages."""
