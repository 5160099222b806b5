"""Which class reads which release. Names only, so that a conversion imports no more than it needs."""

from __future__ import annotations

import importlib

from adhmr.data.sources.source import Source
from adhmr.errors import AdhmrError

# name of `adhmr data convert` -> "module:class"
SOURCES = {
    "hi4d": "adhmr.data.sources.human_data_sets:Hi4D",
    "bedlam": "adhmr.data.sources.human_data_sets:Bedlam",
    "dna-rendering": "adhmr.data.sources.human_data_sets:DnaRendering",
    "gta-human": "adhmr.data.sources.human_data_sets:GtaHuman",
    "spec": "adhmr.data.sources.human_data_sets:Spec",
    "insta-variety": "adhmr.data.sources.human_data_sets:InstaVariety",
    "3dhp-neuralannot": "adhmr.data.sources.human_data_sets:Mpi3dhpNeuralAnnot",
    "up3d-humandata": "adhmr.data.sources.human_data_sets:Up3d",
    "human-data": "adhmr.data.sources.human_data_sets:AnyHumanData",
    "3dpw": "adhmr.data.sources.pw3d_sequences:Pw3dSequences",
    "3dpw-json": "adhmr.data.sources.scorehypo_sets:Pw3dJson",
    "h36m-scorehypo": "adhmr.data.sources.scorehypo_sets:Human36M",
    "3dhp-scorehypo": "adhmr.data.sources.scorehypo_sets:Mpi3dhp",
    "coco-scorehypo": "adhmr.data.sources.scorehypo_sets:Coco",
    "mpii-scorehypo": "adhmr.data.sources.scorehypo_sets:Mpii",
    "up3d-scorehypo": "adhmr.data.sources.scorehypo_sets:Up3d",
    "surreal-scorehypo": "adhmr.data.sources.scorehypo_sets:Surreal",
    "h36m-osx": "adhmr.data.sources.human36m_osx:Human36mOsx",
    "coco-neuralannot": "adhmr.data.sources.keypoints_with_fits:CocoNeuralAnnot",
    "mpii-neuralannot": "adhmr.data.sources.keypoints_with_fits:MpiiNeuralAnnot",
    "ehf": "adhmr.data.sources.ehf:Ehf",
    "webdataset": "adhmr.data.sources.webdataset:WebDataset",
    "4dhumans": "adhmr.data.sources.four_d_humans:FourDHumans",
    "images": "adhmr.data.sources.image_folder:ImageFolder",
}


def source_class(name: str) -> type[Source]:
    """Raises AdhmrError for an unknown name."""
    if name not in SOURCES:
        raise AdhmrError(f"no data set is called '{name}'; known: {', '.join(sorted(SOURCES))}")
    module, kind = SOURCES[name].split(":")
    return getattr(importlib.import_module(module), kind)


def usual_split(name: str) -> str:
    """The split that is meant when none is named: train, or the only one. Raises AdhmrError when that is unclear."""
    splits = source_class(name).splits
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else splits[0]
    raise AdhmrError(f"{name} has the splits {', '.join(splits)}: choose one with --split")
