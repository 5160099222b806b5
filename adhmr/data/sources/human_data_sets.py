"""The data sets that the field passes on as HumanData files (mmhuman3d, SMPLer-X), and any other such file."""

from adhmr.data.sources.human_data import HumanDataSet, HumanDataSource
from adhmr.data.sources.source import Release
from adhmr.errors import AdhmrError

RESEARCH = "non-commercial research, on registration"


class Hi4D(HumanDataSource):
    """Two people in close contact; SMPL."""

    spec = HumanDataSet(
        name="Hi4D",
        licence="licence not found in public text, on request: yifeiyin04.github.io/Hi4D",
        files={"train": ("preprocessed_datasets/hi4d_train_240205_098.npz",)},
        images="HI4D",
        model="smpl",
        size=(1280, 940),
        group=r"pair\d+",  # the two people; folders are cameras
    )


class Bedlam(HumanDataSource):
    """Rendered scenes; SMPL-X, hands hold the whole rotation."""

    spec = HumanDataSet(
        name="BEDLAM",
        licence=f"{RESEARCH}: bedlam.is.tue.mpg.de",
        files={"train": ("preprocessed_datasets/bedlam_train.npz",)},
        images="BEDLAM",
        model="smplx",
        flat_hands=True,
        neutral_betas=True,  # whatever gender it names
    )


class DnaRendering(HumanDataSource):
    """RenBody, the studio recordings; SMPL-X."""

    spec = HumanDataSet(
        name="DNA-Rendering",
        licence="a signed agreement, by e-mail: dna-rendering.github.io",
        files={
            "train": tuple(
                f"preprocessed_datasets/renbody_train_highrescam_230517_399_{part}_fix_betas.npz" for part in (0, 1)
            ),
            "test": ("preprocessed_datasets/renbody_test_highrescam_230517_78_0_fix_betas.npz",),
        },
        images="RenBody",
        model="smplx",
        neutral_betas=True,
        group=r"^image/[^/]+/[^/]+",  # day and subject; folders are cameras
    )


class GtaHuman(HumanDataSource):
    """GTA-Human II; SMPL-X, one camera for all."""

    spec = HumanDataSet(
        name="GTA-Human II",
        licence="S-Lab License (non-commercial): caizhongang.com/projects/GTA-Human",
        files={split: ("preprocessed_datasets/gta_human2multiple_230406_04000_0.npz",) for split in ("train", "test")},
        images="GTA_Human2",
        model="smplx",
        size=(1080, 1920),
        intrinsics=(1158.0337, 960.0, 540.0),
        flat_hands=True,
    )


class Spec(HumanDataSource):
    """SPEC's synthetic views with wide cameras; SMPL."""

    spec = HumanDataSet(
        name="SPEC",
        licence="non-commercial research: spec.is.tue.mpg.de",
        files={split: (f"preprocessed_datasets/spec_{split}_smpl.npz",) for split in ("train", "test")},
        images="SPEC",
        model="smpl",
        size=(1080, 1920),
    )


class InstaVariety(HumanDataSource):
    """Frames of videos with NeuralAnnot's SMPL fits: pseudo-labels."""

    spec = HumanDataSet(
        name="InstaVariety",
        licence="not stated, videos of Instagram: github.com/akanazawa/human_dynamics; labels NeuralAnnot, not stated",
        files={"train": ("preprocessed_datasets/insta_variety_neural_annot_train.npz",)},
        images="InstaVariety",
        model="smpl",
        size=(224, 224),
    )


class Mpi3dhpNeuralAnnot(HumanDataSource):
    """MPI-INF-3DHP with NeuralAnnot's SMPL-X fits, as SMPLer-X reads it."""

    spec = HumanDataSet(
        name="MPI-INF-3DHP",
        licence="non-commercial: vcai.mpi-inf.mpg.de/3dhp-dataset; labels NeuralAnnot, not stated",
        files={"train": tuple(f"preprocessed_datasets/mpi_inf_3dhp_neural_annot_part{part}.npz" for part in (1, 2, 3))},
        images="MPI_INF_3DHP",
        model="smplx",
        group=r"S\d+",
    )


class Up3d(HumanDataSource):
    """UP-3D as SMPLer-X reads it; SMPL-X."""

    spec = HumanDataSet(
        name="UP-3D",
        licence="research (its code: CC BY-NC 4.0): files.is.tuebingen.mpg.de/classner/up",
        files={"trainval": ("preprocessed_datasets/up3d_trainval.npz",)},
        images="UP3D",
        model="smplx",
        group=r".+",  # photographs that have nothing to do with each other
    )


class AnyHumanData(HumanDataSource):
    """Any other HumanData file: --file names it, images count from the root. SMPL-X where it has it, else SMPL."""

    def __init__(self, release: Release) -> None:
        if release.file is None:
            raise AdhmrError("human-data reads the file that --file names: give the .npz")
        from adhmr.data.sources.human_data import HumanDataFile

        found = [model for model in ("smplx", "smpl") if model in HumanDataFile(release.file)]
        if not found:
            raise AdhmrError(f"{release.file}: there is neither 'smplx' nor 'smpl' in it: nobody has a pose")
        self.spec = HumanDataSet(
            name=release.file.stem,
            licence="as that of the images and labels",
            files={"all": ()},
            images=".",
            model=found[0],
        )
        super().__init__(release)


for _source in (Hi4D, Bedlam, DnaRendering, GtaHuman, Spec, InstaVariety, Mpi3dhpNeuralAnnot, Up3d):
    _source.splits = tuple(_source.spec.files)
AnyHumanData.splits = ("all",)
