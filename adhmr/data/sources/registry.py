"""Which class reads which release. Names only, so that a conversion imports no more than it needs."""

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
}
