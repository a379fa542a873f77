"""The data sets of the atlas: what they are, which official files they come from, how they split.

Four kinds: `CATALOG` holds what networks are pre-trained on, `TARGETS` what their features are
transferred to, `MULTI_LABEL` the same with several classes in an image. These two have no size of
their own: their images are squashed to the size that a network was trained at, and
`resolve("dtd-32")` is DTD at 32 pixels; `resolve("places205-original")` is Places205 as its files
are. `WITH_OBJECTS` holds what detectors are trained on; its
images are stored as their files have them.

Facts only. Snakemake loads this module while it plans, so it imports neither numpy nor torch.
Checksums are those that torchvision lists. It has none for Tiny ImageNet, CUB-200-2011, FGVC
Aircraft and COCO, whose archives have the checksums that their public loaders agree on (Aircraft's
is from its authors' page), nor for iNaturalist's lists, whose are from their authors' page. None is
published for the traffic signs and Places205.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from barlow_atlas.data.errors import DataError
from barlow_atlas.settings.frozen import Frozen

Part = Literal["train", "test", "unlabeled"]
Layout = Literal[
    "digits",
    "cifar",
    "stl10",
    "tiny-imagenet",
    "class-folders",
    "dtd",
    "idx",
    "cub",
    "flowers",
    "gtsdb",
    "aircraft",
    "voc-classes",
    "places205",
    "inaturalist",
    "voc-objects",
    "coco-objects",
]
Share = Annotated[float, Field(gt=0, lt=1)]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

# The seed of every split that is drawn here. It belongs to the data and not to a run: all runs on
# a data set share one hold-out. Changing it makes all stored results incomparable with new ones.
SPLIT_SEED = 2312
LABEL_LISTS = ("1percent", "10percent")
"""SimCLR's lists of the training images whose labels semi-supervised evaluation may use: names of
files, one a line, in `1percent.txt` and so on beside the class folders or archives."""
# Names that would collide with other folders below results/data, or that escape from it.
_RESERVED = ("raw",)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class OfficialFile(Frozen):
    """One file as its authors published it; `name` is relative to the archive's folder."""

    name: str
    part: Literal["train", "test", "unlabeled", "names", "all"]
    md5: Md5 | None = Field(description="None: no checksum is published")
    size: int | None = Field(default=None, gt=0, description="bytes, where known")
    url: str | None = Field(default=None, description="where it is published, if it is by itself")
    unpacked: str | None = Field(
        default=None,
        exclude_if=lambda path: path is None,
        description="a path beside it by which an unpacked copy of it is known, if one serves",
    )


class Archive(Frozen):
    """The official archive, and the folder that it unpacks to."""

    name: str
    folder: str
    md5: Md5 | None = Field(description="None: no checksum is published")
    size: int | None = Field(default=None, gt=0, description="bytes, where known")
    url: str | None = Field(default=None, description="where the authors publish it")
    landmark: str | None = Field(
        default=None, description="a path below `folder` by which an unpacked copy is known"
    )


class Counts(Frozen):
    """Images in each part of a prepared data set; validation images are counted in `train`."""

    train: int = Field(gt=0)
    test: int = Field(gt=0)
    unlabeled: int = Field(default=0, ge=0)


class Facts(Frozen):
    """What is known of a data set before any of its files is opened, whatever size it is stored at.

    `counts` and `classes` are None for class folders, which only their preparation looks into;
    `counts` also where a split is drawn from images of which only the total is published.
    `validation_share` is the share of the training images, stratified by class, that the clean
    protocol holds out of pre-training and of probe training. `test_share` is set where the source
    has no test part of its own. Official files come in an `archive`, or one by one; then `folder`
    is where they lie together.
    """

    name: str
    title: str
    layout: Layout
    classes: int | None = Field(gt=1)
    counts: Counts | None
    validation_share: Share = 0.1
    test_share: Share | None = None
    split_seed: int = Field(default=SPLIT_SEED, ge=0)
    archive: Archive | None = None
    folder: str | None = None
    files: tuple[OfficialFile, ...] = ()
    source: str = Field(description="where the images come from, in words")
    licence: str

    @model_validator(mode="after")
    def _name_is_a_folder(self) -> "Facts":
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise ValueError(
                f"{self.name!r} cannot be a data set's name: it names a folder, so it is made of "
                f"a-z, 0-9, '.', '_' and '-', begins with a letter or digit and is none of "
                f"{', '.join(_RESERVED)}"
            )
        return self

    @property
    def official_folder(self) -> str | None:
        """The folder that holds the official files; None where nothing is looked up."""
        return self.archive.folder if self.archive else self.folder


class DataSet(Facts):
    """A data set as it is prepared: the facts, and the size of the stored images."""

    image_size: int | None = Field(
        gt=0,
        description="height and width of the stored images, pixels; None: as their files have them",
    )
    path: str | None = Field(default=None, description="the folder of a class-folder data set")
    class_names: tuple[str, ...] = Field(
        default=(), exclude_if=lambda names: not names, description="taken of `path`; (): all"
    )
    unreadable: Literal["refuse", "skip"] = Field(
        default="refuse",
        exclude_if=lambda chosen: chosen == "refuse",
        description="what becomes of an original that cannot be decoded",
    )


Triple = tuple[float, float, float]


class Squashed(Facts):
    """A data set whose images are squashed to the size that a network sees, or `original`."""

    def at(self, size: int) -> DataSet:
        """This with all images squashed to size x size pixels, under a name of its own."""
        return self._stored(str(size), size)

    @property
    def original(self) -> DataSet:
        """This with its images as their files have them, under a name of its own."""
        return self._stored("original", None)

    def _stored(self, how: str, size: int | None) -> DataSet:
        facts = {key: getattr(self, key) for key in Facts.model_fields}
        return DataSet(**facts | {"name": f"{self.name}-{how}"}, image_size=size)


class Target(Squashed):
    """A data set that features are transferred to (Mixed Barlow Twins, evaluate_transfer.py).

    `mean` and `std` (R, G, B, scale 0 to 1) are those that the reference normalises with.
    """

    mean: Triple
    std: Triple


def _cifar_file(name: str, md5: str, size: int | None = None) -> OfficialFile:
    part: Literal["train", "test", "names"]
    part = "names" if "meta" in name else "test" if "test" in name else "train"
    return OfficialFile(name=name, part=part, md5=md5, size=size)


_CIFAR_LICENCE = (
    "No formal licence; free to use with citation: A. Krizhevsky, Learning Multiple Layers of "
    "Features from Tiny Images, 2009."
)

_DIGITS_SIDE = 8
_DIGITS = Target(
    name="digits",
    title="Handwritten digits (scikit-learn)",
    layout="digits",
    classes=10,
    # The source is one block of 1,797 images: a fifth becomes the test part, a fifth of the
    # rest (288 images) the hold-out.
    counts=Counts(train=1438, test=359),
    validation_share=0.2,
    test_share=0.2,
    source="embedded in scikit-learn: sklearn.datasets.load_digits",
    licence=(
        "CC BY 4.0: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, "
        "UCI Machine Learning Repository, 1998."
    ),
    # Those of the recipe `digits`.
    mean=(0.305, 0.305, 0.305),
    std=(0.376, 0.376, 0.376),
)

_SETS = (
    _DIGITS.at(_DIGITS_SIDE).model_copy(update={"name": _DIGITS.name}),
    DataSet(
        name="cifar10",
        title="CIFAR-10",
        layout="cifar",
        image_size=32,
        classes=10,
        counts=Counts(train=50_000, test=10_000),
        archive=Archive(
            name="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            md5="c58f30108f718f92721af3b95e74349a",
            size=170_498_071,
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        files=(
            _cifar_file("data_batch_1", "c99cafc152244af753f735de768cd75f", 31_035_704),
            _cifar_file("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 31_035_320),
            _cifar_file("data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 31_035_999),
            _cifar_file("data_batch_4", "634d18415352ddfa80567beed471001a", 31_035_696),
            _cifar_file("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 31_035_623),
            _cifar_file("test_batch", "40351d587109b95175f43aff81a1287e", 31_035_526),
            _cifar_file("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", 158),
        ),
        source="official python batches, each verified by its md5",
        licence=_CIFAR_LICENCE,
    ),
    DataSet(
        name="cifar100",
        title="CIFAR-100",
        layout="cifar",
        image_size=32,
        classes=100,
        counts=Counts(train=50_000, test=10_000),
        archive=Archive(
            name="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            size=169_001_437,
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        files=(
            _cifar_file("train", "16019d7e3df5f24257cddd939b257f8d"),
            _cifar_file("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            _cifar_file("meta", "7973b15100ade9c7d40fb424638fde48"),
        ),
        source="official python batches, each verified by its md5; fine labels",
        licence=_CIFAR_LICENCE,
    ),
    DataSet(
        name="tiny-imagenet",
        title="Tiny ImageNet",
        layout="tiny-imagenet",
        image_size=64,
        classes=200,
        counts=Counts(train=100_000, test=10_000),
        archive=Archive(
            name="tiny-imagenet-200.zip",
            folder="tiny-imagenet-200",
            md5="90528d7ca1a48142e341f4ef8d21d0de",
            size=248_100_043,
            url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            landmark="train",
        ),
        # There are no official checksums of single images.
        source="official images; the published validation images are the test part",
        licence=(
            "Images from ImageNet, whose terms allow non-commercial research and education only: "
            "Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, 2015."
        ),
    ),
    DataSet(
        name="stl10",
        title="STL-10",
        layout="stl10",
        image_size=96,
        classes=10,
        counts=Counts(train=5_000, test=8_000, unlabeled=100_000),
        archive=Archive(
            name="stl10_binary.tar.gz",
            folder="stl10_binary",
            md5="91f7769df0f17e558f3565bffb0c7dfb",
            size=2_640_397_119,
            url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        ),
        files=(
            OfficialFile(
                name="train_X.bin",
                part="train",
                md5="918c2871b30a85fa023e0c44e0bee87f",
                size=138_240_000,
            ),
            OfficialFile(
                name="train_y.bin",
                part="train",
                md5="5a34089d4802c674881badbb80307741",
                size=5_000,
            ),
            OfficialFile(
                name="test_X.bin",
                part="test",
                md5="7f263ba9f9e0b06b93213547f721ac82",
                size=221_184_000,
            ),
            OfficialFile(
                name="test_y.bin", part="test", md5="36f9794fa4beb8a2c72628de14fa638e", size=8_000
            ),
            OfficialFile(
                name="unlabeled_X.bin",
                part="unlabeled",
                md5="5242ba1fed5e4be9e1e742405eb56ca4",
                size=2_764_800_000,
            ),
        ),
        source="official binary files, each verified by its md5",
        licence=(
            "Images from ImageNet, whose terms allow non-commercial research and education only: "
            "A. Coates, H. Lee and A. Y. Ng, An Analysis of Single Layer Networks in Unsupervised "
            "Feature Learning, AISTATS 2011."
        ),
    ),
)

CATALOG: dict[str, DataSet] = {data_set.name: data_set for data_set in _SETS}

_VGG = "https://www.robots.ox.ac.uk/~vgg/data"


def _idx_files(base: str, *md5: str) -> tuple[OfficialFile, ...]:
    """MNIST's four files, from the checksums of training images and labels, test images, labels."""
    parts: tuple[tuple[Literal["train", "test"], str, str], ...] = (
        ("train", "train-images-idx3-ubyte.gz", md5[0]),
        ("train", "train-labels-idx1-ubyte.gz", md5[1]),
        ("test", "t10k-images-idx3-ubyte.gz", md5[2]),
        ("test", "t10k-labels-idx1-ubyte.gz", md5[3]),
    )
    return tuple(
        OfficialFile(name=name, part=part, md5=md5, url=f"{base}/{name}")
        for part, name, md5 in parts
    )


# VISSL normalises its targets by these.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

_TARGETS = (
    Target(
        name="dtd",
        title="Describable Textures",
        layout="dtd",
        classes=47,
        counts=Counts(train=3_760, test=1_880),
        archive=Archive(
            name="dtd-r1.0.1.tar.gz",
            folder="dtd",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            url=f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
            landmark="labels/train1.txt",
        ),
        source="official images; first of the ten published splits, train1 and val1 against test1",
        licence=("For research: M. Cimpoi et al., Describing Textures in the Wild, CVPR 2014."),
        mean=(0.533, 0.474, 0.426),
        std=(0.261, 0.250, 0.259),
    ),
    Target(
        name="mnist",
        title="MNIST",
        layout="idx",
        classes=10,
        counts=Counts(train=60_000, test=10_000),
        folder="MNIST/raw",
        files=_idx_files(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        source="official files, each verified by its md5; grey values in all three channels",
        licence="CC BY-SA 3.0: Y. LeCun, C. Cortes and C. Burges, The MNIST Database, 1998.",
        mean=(0.170, 0.170, 0.170),
        std=(0.320, 0.320, 0.320),
    ),
    Target(
        name="fashion-mnist",
        title="Fashion-MNIST",
        layout="idx",
        classes=10,
        counts=Counts(train=60_000, test=10_000),
        folder="FashionMNIST/raw",
        files=_idx_files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        source="official files, each verified by its md5; grey values in all three channels",
        licence="MIT: H. Xiao, K. Rasul and R. Vollgraf, arXiv:1708.07747, 2017.",
        mean=(0.348, 0.348, 0.348),
        std=(0.347, 0.347, 0.347),
    ),
    Target(
        name="cub-200",
        title="CUB-200-2011",
        layout="cub",
        classes=200,
        counts=Counts(train=5_994, test=5_794),
        archive=Archive(
            name="CUB_200_2011.tgz",
            folder="CUB_200_2011",
            md5="97eceeb196236b17998738112f37df78",
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            landmark="images.txt",
        ),
        source="official images, whole, not cropped; official split",
        licence=(
            "For non-commercial research and education: C. Wah et al., The Caltech-UCSD "
            "Birds-200-2011 Dataset, CNS-TR-2011-001."
        ),
        mean=(0.483, 0.491, 0.424),
        std=(0.228, 0.224, 0.259),
    ),
    Target(
        name="flowers-102",
        title="102 Category Flowers",
        layout="flowers",
        classes=102,
        # 8,189 images in all; how many are trained on follows from the draw.
        counts=None,
        test_share=0.2,
        folder="flowers-102",
        files=(
            OfficialFile(
                name="102flowers.tgz",
                part="all",
                md5="52808999861908f626f3c1f4e79d11fa",
                url=f"{_VGG}/flowers/102/102flowers.tgz",
            ),
            OfficialFile(
                name="imagelabels.mat",
                part="all",
                md5="e0620be6f572b9609742df49c70aed4d",
                url=f"{_VGG}/flowers/102/imagelabels.mat",
            ),
        ),
        source=(
            "official files, each verified by its md5; not the official split but Mixed Barlow "
            "Twins' draw of four fifths of each class"
        ),
        licence=(
            "No formal licence; free to use with citation: M.-E. Nilsback and A. Zisserman, "
            "Automated Flower Classification over a Large Number of Classes, ICVGIP 2008."
        ),
        mean=(0.518, 0.410, 0.329),
        std=(0.296, 0.249, 0.285),
    ),
    Target(
        name="traffic-signs",
        title="German traffic signs (GTSDB crops)",
        layout="gtsdb",
        classes=43,
        # How many signs there are of each class is not published.
        counts=None,
        test_share=0.2,
        archive=Archive(
            name="FullIJCNN2013.zip",
            folder="FullIJCNN2013",
            md5=None,
            url="https://sid.erda.dk/public/archives/ff17dc924eba88d5d01a807357d6614c/"
            "FullIJCNN2013.zip",
            landmark="00",
        ),
        source=(
            "official crops of single signs; Mixed Barlow Twins' draw of four fifths of each "
            "class, over the sorted file names"
        ),
        licence=(
            "No formal licence in the archive; free to use with citation: S. Houben et al., "
            "Detection of Traffic Signs in Real-World Images, IJCNN 2013."
        ),
        mean=(0.335, 0.291, 0.295),
        std=(0.267, 0.249, 0.251),
    ),
    Target(
        name="aircraft",
        title="FGVC Aircraft, variants",
        layout="aircraft",
        classes=100,
        counts=Counts(train=6_667, test=3_333),
        archive=Archive(
            name="fgvc-aircraft-2013b.tar.gz",
            folder="fgvc-aircraft-2013b",
            md5="d4acdd33327262359767eeaa97a4f732",
            url=f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            landmark="data/images_box.txt",
        ),
        source="official images, cropped to their bounding boxes; trainval against test",
        licence=(
            "For non-commercial research: S. Maji et al., Fine-Grained Visual Classification of "
            "Aircraft, arXiv:1306.5151, 2013."
        ),
        mean=(0.486, 0.507, 0.525),
        std=(0.266, 0.260, 0.276),
    ),
    Target(
        name="places205",
        title="Places205",
        layout="places205",
        classes=205,
        counts=Counts(train=2_448_873, test=20_500),
        folder="places205",
        files=(
            OfficialFile(
                name="imagesPlaces205_resize.tar.gz",
                part="all",
                md5=None,
                unpacked="data/vision/torralba/deeplearning/images256",
            ),
            OfficialFile(
                name="trainvalsplit_places205.tar.gz",
                part="all",
                md5=None,
                unpacked="trainvalsplit_places205/train_places205.csv",
            ),
        ),
        source=(
            "official images of 256 x 256 pixels and split lists, to be asked for at "
            "http://places.csail.mit.edu; the validation images are the test part"
        ),
        licence=(
            "For non-commercial research and education: B. Zhou et al., Learning Deep Features for "
            "Scene Recognition using Places Database, NeurIPS 2014."
        ),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    Target(
        name="inaturalist-2018",
        title="iNaturalist 2018",
        layout="inaturalist",
        classes=8_142,
        counts=Counts(train=437_513, test=24_426),
        folder="inaturalist-2018",
        files=(
            OfficialFile(
                name="train_val2018.tar.gz",
                part="all",
                md5="b1c6952ce38f31868cc50ea72d066cc3",
                unpacked="train_val2018",
            ),
            OfficialFile(
                name="train2018.json.tar.gz",
                part="train",
                md5="bfa29d89d629cbf04d826a720c0a68b0",
                unpacked="train2018.json",
            ),
            OfficialFile(
                name="val2018.json.tar.gz",
                part="test",
                md5="f2ed8bfe3e9901cdefceb4e53cd3775d",
                unpacked="val2018.json",
            ),
        ),
        source=(
            "official images (120 GB) and annotations, as linked at "
            "https://github.com/visipedia/inat_comp/tree/master/2018; the validation images are "
            "the test part"
        ),
        licence=(
            "For non-commercial research and education: G. Van Horn et al., The iNaturalist "
            "Species Classification and Detection Dataset, CVPR 2018."
        ),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    _DIGITS,
)

TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}
ORIGINALS = {name: TARGETS[name].original for name in ("places205", "inaturalist-2018")}
"""Targets that are cropped at random, so stored as their files have them."""

_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_VOC07_TRAINVAL = OfficialFile(
    name="VOCtrainval_06-Nov-2007.tar",
    part="train",
    md5="c52e279531787c972589f7e41ab4ae64",
    url=f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
    unpacked="VOC2007/ImageSets/Main/trainval.txt",
)
_VOC07_TEST = OfficialFile(
    name="VOCtest_06-Nov-2007.tar",
    part="test",
    md5="b6e924de25625d8de591ea690078ad9f",
    url=f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
    unpacked="VOC2007/ImageSets/Main/test.txt",
)
_VOC12_TRAINVAL = OfficialFile(
    name="VOCtrainval_11-May-2012.tar",
    part="train",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    url=f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
    unpacked="VOC2012/ImageSets/Main/trainval.txt",
)
_VOC_LICENCE = (
    "Images from flickr, under its terms of use: M. Everingham et al., The PASCAL Visual Object "
    "Classes (VOC) Challenge, IJCV 88, 2010."
)

_MULTI_LABEL = (
    Squashed(
        name="voc07",
        title="PASCAL VOC 2007, classification",
        layout="voc-classes",
        classes=len(VOC_CLASSES),
        counts=Counts(train=5_011, test=4_952),
        folder="VOCdevkit",
        files=(_VOC07_TRAINVAL, _VOC07_TEST),
        source="official images and image sets; trainval against test",
        licence=_VOC_LICENCE,
    ),
)

MULTI_LABEL: dict[str, Squashed] = {data_set.name: data_set for data_set in _MULTI_LABEL}
SQUASHED: dict[str, Squashed] = {**TARGETS, **MULTI_LABEL}
"""All that is stored at the size that a network sees."""

_WITH_OBJECTS = (
    DataSet(
        name="voc0712",
        title="PASCAL VOC 2007 and 2012, objects",
        layout="voc-objects",
        image_size=None,
        classes=len(VOC_CLASSES),
        counts=Counts(train=16_551, test=4_952),
        folder="VOCdevkit",
        files=(_VOC07_TRAINVAL, _VOC12_TRAINVAL, _VOC07_TEST),
        source="official images and annotations; trainval of both years against test of 2007",
        licence=_VOC_LICENCE,
    ),
    DataSet(
        name="coco",
        title="COCO 2017, objects",
        layout="coco-objects",
        image_size=None,
        classes=80,
        counts=Counts(train=118_287, test=5_000),
        folder="coco",
        files=(
            OfficialFile(
                name="train2017.zip",
                part="train",
                md5="cced6f7f71b7629ddf16f17bbcfab6b2",
                size=19_336_861_798,
                unpacked="train2017",
            ),
            OfficialFile(
                name="val2017.zip",
                part="test",
                md5="442b8da7639aecaf257c1dceb8ba8c80",
                size=815_585_330,
                unpacked="val2017",
            ),
            OfficialFile(
                name="annotations_trainval2017.zip",
                part="all",
                md5="f4bbac642086de4f52a3fdda2de5fa2c",
                size=252_907_541,
                unpacked="annotations/instances_train2017.json",
            ),
        ),
        source=(
            "official images and instances of 2017, as linked at https://cocodataset.org/#download;"
            " the validation images are the test part"
        ),
        licence=(
            "Annotations CC BY 4.0, images from flickr under its terms of use: T.-Y. Lin et al., "
            "Microsoft COCO: Common Objects in Context, ECCV 2014."
        ),
    ),
)

WITH_OBJECTS: dict[str, DataSet] = {data_set.name: data_set for data_set in _WITH_OBJECTS}
_STORED_ORIGINALS = {data_set.name: data_set for data_set in ORIGINALS.values()}
_AT_SIZE = re.compile(rf"({'|'.join(SQUASHED)})-([1-9][0-9]*)")


def class_folder(
    name: str,
    path: str,
    stored_size: int | None,
    class_names: tuple[str, ...] = (),
    unreadable: Literal["refuse", "skip"] = "refuse",
) -> DataSet:
    """A data set given as a folder with `train/<class>/` and `val/<class>/` or `test/<class>/`.

    Its images are stored as squares of `stored_size` pixels: the shorter side is resized to it
    (bicubic with antialiasing), the longer one cropped to its centre. Without a size they are
    stored as their files have them, and the folder may hold ImageNet's archives instead, or images
    as others packed them. Raises DataError if the name is one of the catalogue's: a folder must not
    pass for a published data set.
    """
    if name in CATALOG:
        raise DataError(
            f"{name!r} is the published data set {CATALOG[name].title}, which takes no path: give "
            f"the class folders in {path} another name, or leave path and stored_size out and put "
            "the official files into the raw folder or a mirror."
        )
    targets = {*SQUASHED, *WITH_OBJECTS, *_STORED_ORIGINALS}
    if name in targets or _AT_SIZE.fullmatch(name):
        raise DataError(
            f"{name!r} is the name of a transfer target: give the class folders in {path} another."
        )
    return DataSet(
        name=name,
        title=name,
        layout="class-folders",
        image_size=stored_size,
        classes=None,
        counts=None,
        path=path,
        class_names=class_names,
        unreadable=unreadable,
        source="class folders given by path",
        licence="Not known: the user's own images.",
    )


def resolve(name: str) -> DataSet:
    """The data set that a name without a path means.

    One of the catalogue, or a target with the size that its images are squashed to, such as
    "dtd-32", or "places205-original". Raises DataError if there is none.
    """
    if sized := _AT_SIZE.fullmatch(name):
        return SQUASHED[sized[1]].at(int(sized[2]))
    if name in SQUASHED and name not in CATALOG:
        raise DataError(
            f"{name!r} is a transfer target, stored at the size that a network sees: name it with "
            f"that size, such as {name}-32."
        )
    as_they_are = WITH_OBJECTS | _STORED_ORIGINALS
    if name in as_they_are:
        return as_they_are[name]
    if name not in CATALOG:
        raise DataError(
            f"no data set is called {name!r}: there are {', '.join(CATALOG)}, for detection "
            f"{', '.join(WITH_OBJECTS)}, and for transfer "
            f"{', '.join(SQUASHED)}, with a size such as dtd-32. For a folder of images, give path "
            "and stored_size as well."
        )
    return CATALOG[name]
