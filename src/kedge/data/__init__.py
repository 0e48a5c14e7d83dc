"""Image sets: loading, splitting, training batches, augmentation, corruptions."""

from kedge.data import corruptions
from kedge.data.augment import BatchAugmentation, augment_batch
from kedge.data.batches import TrainingBatches, training_batches
from kedge.data.decode import read_image
from kedge.data.distilled import distilled, feature_distance
from kedge.data.dominoes import dominoes
from kedge.data.file_sets import FileSet
from kedge.data.grouping import group_by
from kedge.data.groups import Groups
from kedge.data.imbalance import imbalanced
from kedge.data.label_noise import with_label_noise
from kedge.data.loading import load, load_images, load_unlabelled, parts_of, splits, stream
from kedge.data.map_style import from_dataset
from kedge.data.origin import Origin
from kedge.data.overlap import check_apart, shared_images
from kedge.data.parts import PartedSet, randomised
from kedge.data.photo_cache import with_cache
from kedge.data.published import PublishedSet, is_published, published
from kedge.data.report import DataError, LoadReport, UnreadableImage
from kedge.data.semi_supervised import joined, pseudo_labelled, rotated
from kedge.data.sets import ImageSet, TensorSet
from kedge.data.slabs import slabs
from kedge.data.sources import is_stream
from kedge.data.splitting import reference_subset, split_validation
from kedge.data.streams import StreamSet, from_stream
from kedge.seeds import derive_seed, generator

__all__ = [
    "BatchAugmentation",
    "DataError",
    "FileSet",
    "Groups",
    "ImageSet",
    "LoadReport",
    "Origin",
    "PartedSet",
    "PublishedSet",
    "StreamSet",
    "TensorSet",
    "TrainingBatches",
    "UnreadableImage",
    "augment_batch",
    "check_apart",
    "corruptions",
    "derive_seed",
    "distilled",
    "dominoes",
    "feature_distance",
    "from_dataset",
    "from_stream",
    "generator",
    "group_by",
    "imbalanced",
    "is_published",
    "is_stream",
    "joined",
    "load",
    "load_images",
    "load_unlabelled",
    "parts_of",
    "pseudo_labelled",
    "published",
    "randomised",
    "read_image",
    "reference_subset",
    "rotated",
    "shared_images",
    "slabs",
    "split_validation",
    "splits",
    "stream",
    "training_batches",
    "with_cache",
    "with_label_noise",
]
