"""Ordinary files out of kedge models: ONNX and torch.export, checked before they are left behind."""

from kedge.deploy.exporting import FORMATS, Exported, export
from kedge.deploy.onnx_file import OnnxModel, load_onnx

__all__ = ["FORMATS", "Exported", "OnnxModel", "export", "load_onnx"]
