"""Stages that look at frames."""
