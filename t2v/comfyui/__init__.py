"""Nodes for ComfyUI. This folder, linked into its `custom_nodes`, is the extension."""

from t2v.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
