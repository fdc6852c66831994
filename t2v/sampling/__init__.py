"""`t2v sample`: prompts become mp4 files, and nothing that was finished is lost."""
