"""Files, media and processes: read and written safely, with locks, limits and clear errors."""
