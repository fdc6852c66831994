"""The networks that measure videos: features, the video-text scorer, captioners."""
