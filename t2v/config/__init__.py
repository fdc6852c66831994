"""Every setting and its default, one file a room; `load` reads them from files and words."""
