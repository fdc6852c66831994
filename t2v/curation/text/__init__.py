"""Stages that read and write text."""
