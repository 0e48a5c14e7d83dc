"""Models for others: ordinary files (ONNX and torch.export), checked; a model card; a repository on the hub."""

from kedge.deploy.agreement import Agreement
from kedge.deploy.exporting import FORMATS, Exported, export
from kedge.deploy.int8 import Quantised, quantise
from kedge.deploy.model_card import model_card
from kedge.deploy.model_selection import FoldChoice, choose_folded
from kedge.deploy.onnx_file import OnnxModel, load_onnx
from kedge.deploy.photo_file import PhotoExported, as_photo, export_photo, with_photo_input
from kedge.deploy.photos import folded, photos_in, with_mean_reference
from kedge.deploy.pushing import push_to_hub

__all__ = [
    "FORMATS",
    "Agreement",
    "Exported",
    "FoldChoice",
    "OnnxModel",
    "PhotoExported",
    "Quantised",
    "as_photo",
    "choose_folded",
    "export",
    "export_photo",
    "folded",
    "load_onnx",
    "model_card",
    "photos_in",
    "push_to_hub",
    "quantise",
    "with_mean_reference",
    "with_photo_input",
]
