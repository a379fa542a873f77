"""Foreign weights give the features they gave at home, or a complaint that names every tensor."""

import argparse
import collections
import datetime
import gzip
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from barlow_atlas.nn.networks import build_backbone
from barlow_atlas.settings.training import Backbone
from barlow_atlas.store.foreign import LAYOUTS, ForeignError, read_foreign
from barlow_atlas.store.snapshot import weights_hash
from barlow_atlas.study import models as study

State = dict[str, Any]
R18_SMALL_IMAGES = Backbone(name="resnet18", stem="3x3")


def resnet(name: str, stem: str) -> nn.Module:
    """A ResNet as its users make it, with a classifier and weights that differ everywhere.

    They vary along the first axis only, so that a file holds kilobytes.
    """
    network = getattr(torchvision.models, name)(num_classes=7)
    if stem != "7x7-maxpool":
        padding = 2 if stem == "3x3-pad2" else 1
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
    if stem in ("3x3", "3x3-pad2"):
        network.maxpool = nn.Identity()
    generator = torch.Generator().manual_seed(0)

    def varied(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.tensor(17)
        values = torch.rand(len(tensor), generator=generator) + 0.5
        values = values.view(-1, *[1] * (tensor.dim() - 1)) / max(tensor[0].numel(), 1)
        return values.expand(tensor.shape)

    state = {key: varied(tensor) for key, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    return network.eval()


def encoder(network: nn.Module, prefix: str) -> State:
    """The network's tensors without its classifier."""
    state = network.state_dict().items()
    return {f"{prefix}{key}": tensor for key, tensor in state if not key.startswith("fc.")}


def parts(network: nn.Module, *left_out: type[nn.Module]) -> nn.Sequential:
    """A Sequential of the network's parts, as published encoders are often built."""
    return nn.Sequential(*(m for m in network.children() if not isinstance(m, left_out)))


def head(prefix: str) -> State:
    mlp = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    return {f"{prefix}{key}": tensor for key, tensor in mlp.state_dict().items()}


def mix_bt(network: nn.Module) -> State:
    f = parts(network, nn.Linear, nn.Identity)
    for module in f.modules():
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    published = {f"f.{key}": tensor for key, tensor in f.state_dict().items()}
    return {"total_ops": torch.zeros(1), "total_params": torch.zeros(1), **published, **head("g.")}


def mix_bt_parallel(network: nn.Module) -> State:
    return {f"module.{key}": tensor for key, tensor in mix_bt(network).items()}


def barlow_twins_hub(network: nn.Module) -> State:
    return encoder(network, "")


def barlow_twins_checkpoint(network: nn.Module) -> State:
    model = encoder(network, "module.backbone.") | head("module.projector.")
    model["module.bn.running_mean"] = torch.zeros(2)
    optimizer = {"state": {0: {"mu": torch.zeros(3)}}, "param_groups": [{"lr": 0.2}]}
    return {"epoch": 1000, "model": model, "optimizer": optimizer}


def solo_learn(network: nn.Module) -> State:
    state = encoder(network, "backbone.") | encoder(network, "momentum_backbone.")
    state |= head("projector.") | head("momentum_projector.") | head("predictor.")
    state |= {
        "classifier.weight": torch.ones(2, 3),
        "queue": torch.ones(2),
        "queue_ptr": torch.ones(1),
    }
    settings = OmegaConf.create(
        {"method": "barlow_twins", "optimizer": {"lr": 0.3, "steps": [1, 2]}}
    )
    return {"epoch": 3, "state_dict": state, "hyper_parameters": settings, "callbacks": {}}


def solo_learn_first_releases(network: nn.Module) -> State:
    state = encoder(network, "encoder.") | head("projector.") | head("classifier.")
    settings = argparse.Namespace(lr=0.3, folder=Path("somewhere"))
    return {"epoch": 3, "state_dict": state, "hyper_parameters": settings}


def lightly_names(network: nn.Module) -> State:
    state = encoder(network, "backbone.") | head("projection_head.layers.")
    state |= encoder(network, "teacher_backbone.") | head("online_classifier.classification_head.")
    settings = {"batch_size_per_device": 64, "num_classes": 1000}
    return {"epoch": 99, "state_dict": state, "hyper_parameters": settings}


def lightly_parts(network: nn.Module) -> State:
    f = parts(network, nn.Linear).state_dict().items()
    state = {f"backbone.{key}": tensor for key, tensor in f} | head("projection_head.layers.")
    return state | {f"backbone_momentum.{key}": tensor for key, tensor in f}


def torchvision_plain(network: nn.Module) -> State:
    return network.state_dict()


def torchvision_training(network: nn.Module) -> State:
    model = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    return {"model": model, "args": argparse.Namespace(lr=0.1), "epoch": 89}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("layout", "publish", "name", "stem"),
    [
        ("mix-bt", mix_bt, "resnet18", "3x3"),
        ("mix-bt", mix_bt, "resnet50", "3x3-maxpool"),
        ("mix-bt", mix_bt_parallel, "resnet18", "3x3-maxpool"),
        ("barlowtwins", barlow_twins_hub, "resnet50", "7x7-maxpool"),
        ("barlowtwins", barlow_twins_checkpoint, "resnet50", "7x7-maxpool"),
        ("barlowtwins", torchvision_training, "resnet50", "7x7-maxpool"),
        ("solo-learn", solo_learn, "resnet18", "7x7-maxpool"),
        ("solo-learn", solo_learn_first_releases, "resnet50", "7x7-maxpool"),
        ("solo-learn", solo_learn, "resnet18", "3x3-pad2"),
        ("lightly", lightly_names, "resnet50", "7x7-maxpool"),
        ("lightly", lightly_parts, "resnet18", "7x7-maxpool"),
        ("lightly", lightly_parts, "resnet18", "3x3"),
        ("torchvision", torchvision_plain, "resnet18", "7x7-maxpool"),
        ("torchvision", torchvision_plain, "resnet18", "3x3-maxpool"),
        ("torchvision", torchvision_training, "resnet18", "3x3"),
    ],
)
def test_features_are_those_of_the_network_at_home(
    layout: str, publish: Callable[[nn.Module], State], name: str, stem: str, tmp_path: Path
) -> None:
    network = resnet(name, stem)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    at_home = nn.Sequential(parts(network, nn.Linear), nn.Flatten())(images)
    settings = Backbone.model_validate({"name": name, "stem": stem})
    path = save(tmp_path / "weights.pth", publish(network))

    foreign = read_foreign(path, layout, settings)

    backbone, _ = build_backbone(settings)
    backbone.load_state_dict(
        {key.removeprefix("backbone."): tensor for key, tensor in foreign.weights.items()}
    )
    with torch.no_grad():
        here = backbone.eval()(images)
    assert at_home.std() > 1e-4
    assert torch.equal(here, at_home)
    assert foreign.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights_hash(foreign.weights)  # they can be stored as a milestone


def test_what_is_dropped_is_listed(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", mix_bt(resnet("resnet18", "3x3")))
    dropped = read_foreign(path, "mix-bt", R18_SMALL_IMAGES).dropped
    assert {"total_ops", "f.total_params", "f.3.0.conv1.total_ops", "g.0.weight"} <= set(dropped)
    assert all("total_" in name or name.startswith("g.") for name in dropped)


@pytest.fixture(scope="module")
def small_images() -> State:
    """What mix-bt publishes for CIFAR-10."""
    return mix_bt(resnet("resnet18", "3x3"))


def test_older_formats_and_safetensors_are_read(tmp_path: Path, small_images: State) -> None:
    new, old, safe = tmp_path / "new.pth", tmp_path / "old.pth", tmp_path / "w.safetensors"
    torch.save(small_images, new)
    torch.save(small_images, old, _use_new_zipfile_serialization=False)
    save_file({key: tensor.contiguous() for key, tensor in small_images.items()}, safe)
    read = [read_foreign(path, "mix-bt", R18_SMALL_IMAGES).weights for path in (new, old, safe)]
    assert len({weights_hash(weights) for weights in read}) == 1


def test_missing_counters_are_zero_and_halves_become_floats(
    tmp_path: Path, small_images: State
) -> None:
    old = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in small_images.items()
        if not key.endswith("num_batches_tracked")
    }
    weights = read_foreign(save(tmp_path / "w.pth", old), "mix-bt", R18_SMALL_IMAGES).weights
    assert weights["backbone.bn1.num_batches_tracked"].item() == 0
    assert weights["backbone.conv1.weight"].dtype == torch.float32


def complaint(path: Path, layout: str, backbone: Backbone) -> str:
    with pytest.raises(ForeignError) as failure:
        read_foreign(path, layout, backbone)
    return str(failure.value)


def test_every_difference_is_listed_at_once(tmp_path: Path, small_images: State) -> None:
    state = dict(small_images)
    state["f.3.0.conv1.wieght"] = state.pop("f.3.0.conv1.weight")
    state["f.1.bias"] = torch.zeros(63)
    state["f.1.weight"] = torch.full((64,), float("nan"))
    state["f.1.running_mean"] = torch.zeros(64, dtype=torch.int64)
    state["h.extra"] = "text"
    said = complaint(save(tmp_path / "w.pth", state), "mix-bt", R18_SMALL_IMAGES)
    for line in (
        "w.pth is not resnet18 with stem 3x3 in layout mix-bt. Differences: 6",
        "missing f.3.0.conv1.weight (64, 64, 3, 3); nearest of this shape: f.3.0.conv1.wieght",
        "misfit f.1.bias: found (63,), expected (64,)",
        "misfit f.1.weight: holds NaN or infinite values",
        "misfit f.1.running_mean: found torch.int64, expected torch.float32",
        "unexpected f.3.0.conv1.wieght (64, 64, 3, 3)",
        "unexpected h.extra of type str",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("name", "stem", "asked_name", "asked_stem"),
    [
        ("resnet18", "3x3", "resnet50", "3x3"),
        ("resnet50", "3x3", "resnet18", "3x3"),
        ("resnet18", "3x3", "resnet18", "3x3-maxpool"),  # told by the places of the parts
        ("resnet18", "3x3-maxpool", "resnet18", "3x3"),
        ("resnet18", "3x3-maxpool", "resnet18", "7x7-maxpool"),
    ],
)
def test_the_backbone_and_stem_that_would_fit_are_named(
    name: str, stem: str, asked_name: str, asked_stem: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "w.pth", mix_bt(resnet(name, stem)))
    asked = Backbone.model_validate({"name": asked_name, "stem": asked_stem})
    said = complaint(path, "mix-bt", asked)
    assert f"It fits layout mix-bt with {name}, stem {stem}: name that in the study" in said


def test_a_wrong_stem_is_told_by_the_first_convolution(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", torchvision_plain(resnet("resnet18", "7x7-maxpool")))
    said = complaint(path, "torchvision", R18_SMALL_IMAGES)
    assert "misfit conv1.weight: found (64, 3, 7, 7), expected (64, 3, 3, 3)" in said
    assert "layout torchvision with resnet18, stem 7x7-maxpool" in said


def test_the_layout_that_would_fit_is_named(tmp_path: Path, small_images: State) -> None:
    said = complaint(save(tmp_path / "w.pth", small_images), "torchvision", R18_SMALL_IMAGES)
    assert "It fits layout mix-bt with resnet18, stem 3x3: name that" in said
    nearly = small_images | {"h.extra": torch.zeros(1)}
    said = complaint(save(tmp_path / "w.pth", nearly), "torchvision", R18_SMALL_IMAGES)
    assert "nearest to layout mix-bt with resnet18, stem 3x3 (1 names differ)" in said


def test_networks_that_compute_something_else_are_refused(tmp_path: Path) -> None:
    # solo-learn's stem for CIFAR pads by 2: same shapes, other features.
    path = save(tmp_path / "solo.ckpt", solo_learn(resnet("resnet18", "3x3")))
    assert "their stem is 3x3-pad2" in complaint(path, "solo-learn", R18_SMALL_IMAGES)

    from lightly.models import ResNetGenerator

    own = nn.Sequential(*list(ResNetGenerator("resnet-18").children())[:-1])
    state = {f"backbone.{key}": tensor for key, tensor in own.state_dict().items()}
    path = save(tmp_path / "lightly.ckpt", {"state_dict": state})
    assert "leaves out the ReLU" in complaint(path, "lightly", R18_SMALL_IMAGES)


class Trap:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(zipped: bool, tmp_path: Path, small_images: State) -> None:
    path, sprung = tmp_path / "w.pth", tmp_path / "sprung"
    content = {"state_dict": small_images, "hyper_parameters": Trap(sprung)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    said = complaint(path, "mix-bt", R18_SMALL_IMAGES)
    assert "mkdir" in said
    assert "never done here" in said
    assert not sprung.exists()


def test_nor_when_the_environment_asks_for_it(
    tmp_path: Path, small_images: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = save(tmp_path / "w.pth", small_images | {"trap": Trap(tmp_path / "sprung")})
    complaint(path, "mix-bt", R18_SMALL_IMAGES)
    assert not (tmp_path / "sprung").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", resnet("resnet18", "3x3"))
    assert "torchvision.models.resnet.ResNet" in complaint(path, "torchvision", R18_SMALL_IMAGES)


@pytest.mark.slow
def test_the_command_that_is_offered_takes_the_tensors_out(
    tmp_path: Path, small_images: State
) -> None:
    content = {"state_dict": small_images, "hyper_parameters": {"share": Fraction(1, 3)}}
    said = complaint(save(tmp_path / "a b.ckpt", content), "mix-bt", R18_SMALL_IMAGES)
    assert "fractions.Fraction" in said
    command = shlex.split(said.splitlines()[-1])
    subprocess.run([sys.executable, *command[1:]], check=True)
    converted = tmp_path / "a b.weights.pth"
    assert read_foreign(converted, "mix-bt", R18_SMALL_IMAGES).weights


# Files as the libraries themselves write them


R18 = Backbone(name="resnet18", stem="7x7-maxpool")


@pytest.fixture(scope="module")
def imagenet() -> nn.Module:
    return resnet("resnet18", "7x7-maxpool")


def read(path: Path, layout: str = "torchvision", weights: str | None = None) -> str:
    return weights_hash(read_foreign(path, layout, R18, weights).weights)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        lambda net: nn.DataParallel(torch.compile(net)),
        lambda net: torch.compile(nn.DataParallel(net)),
        lambda net: torch.optim.swa_utils.AveragedModel(net),
    ],
)
def test_wrappers_of_torch_are_taken_off_wherever_they_stand(
    tmp_path: Path, imagenet: nn.Module, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    plain = read(save(tmp_path / "plain.pth", imagenet.state_dict()))
    assert read(save(tmp_path / "wrapped.pth", wrap(imagenet).state_dict())) == plain
    nested = nn.ModuleDict({"backbone": wrap(imagenet)}).state_dict()
    nested = {name: tensor for name, tensor in nested.items() if "fc." not in name}
    assert read(save(tmp_path / "nested.ckpt", {"state_dict": nested}), "lightly") == plain


@pytest.mark.parametrize(
    ("layout", "prefixes", "others"),
    [
        ("moco", ("module.encoder_q.",), {"module.queue": 2, "module.encoder_q.fc.0.weight": 2}),
        ("moco", ("module.base_encoder.",), {"module.predictor.0.weight": 2}),
        ("dino", ("module.backbone.",), {"module.head.mlp.0.weight": 2}),
        ("swav", ("module.",), {"module.prototypes.weight": 2, "module.projection_head.0.bias": 2}),
        ("vicreg", ("module.backbone.",), {"module.projector.0.weight": 2}),
        ("timm", ("",), {"fc.weight": 2}),
    ],
)
def test_other_methods_layouts(
    tmp_path: Path, imagenet: nn.Module, layout: str, prefixes: tuple[str], others: dict[str, int]
) -> None:
    state = {name: torch.zeros(size) for name, size in others.items()}
    for prefix in prefixes:
        state |= encoder(imagenet, prefix)
    if layout == "moco":
        state |= encoder(imagenet, prefixes[0].replace("encoder_q", "encoder_k"))
    plain = read(save(tmp_path / "plain.pth", imagenet.state_dict()))
    assert read(save(tmp_path / "w.pth", {"state_dict": state, "epoch": 3}), layout) == plain


@pytest.mark.parametrize(
    ("first", "second"),
    [("state_dict", "state_dict_ema"), ("model", "state_dict"), ("student", "teacher")],
)
def test_of_several_sets_the_study_names_one(
    tmp_path: Path, imagenet: nn.Module, first: str, second: str
) -> None:
    one, other = imagenet.state_dict(), resnet("resnet18", "7x7-maxpool").state_dict()
    other = other | {"conv1.weight": torch.ones(64, 3, 7, 7)}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(4, 4, 3, 3)}}}
    head = {"weight": torch.zeros(2, 3)}
    both = {first: one, "optimizer": optimizer, "criterion": head, second: other, "epoch": 3}
    path = save(tmp_path / "w.pth", both)
    said = complaint(path, "torchvision", R18)
    assert f"several sets of weights:\n  {first} (122 entries)\n  {second} (122 entries)" in said
    assert f"such as `weights: {first}`" in said
    with pytest.raises(ForeignError, match="holds no set 'ema', but these sets"):
        read(path, weights="ema")
    assert read(path, weights=first) == read(save(tmp_path / "one.pth", one))
    assert read(path, weights=second) == read(save(tmp_path / "other.pth", other))
    assert read(path, weights=second) != read(path, weights=first)


class AttributeDict(dict):  # as Lightning before 1.1 had one
    pass


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_of_all_kinds_are_read_over(
    tmp_path: Path, imagenet: nn.Module, zipped: bool
) -> None:
    history: Any = collections.defaultdict(list)
    history["loss"] += [1.0, 2.0]
    settings = {
        "a": AttributeDict(lr=0.1),
        "b": history,
        "c": argparse.Namespace(lr=0.1, at=datetime.datetime(2026, 1, 1), where=Path("x")),
        "d": [collections.Counter("abc"), {1, 2}, collections.deque([1]), range(3), 1j, b"x"],
        "e": OmegaConf.create({"a": [1, {"b": 2}]}),
        "f": np.float64(0.5),
    }
    path = tmp_path / "w.ckpt"
    content = {"state_dict": imagenet.state_dict(), "hyper_parameters": settings}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert read(path) == read(save(tmp_path / "plain.pth", imagenet.state_dict()))


def test_what_is_like_no_layout_is_told_by_its_names(tmp_path: Path, imagenet: nn.Module) -> None:
    state = encoder(imagenet, "online.net.") | encoder(imagenet, "target.net.")
    said = complaint(save(tmp_path / "w.pth", state), "torchvision", R18)
    assert "nearest to" not in said
    assert "like no layout known here; its names begin with online. (120), target. (120)" in said
    assert len(said.splitlines()) < 15


def packed(path: Path, kind: str) -> Path:
    whole = path.read_bytes()
    made = path.with_name(f"packed.{kind}")
    if kind == "gz":
        made.write_bytes(gzip.compress(whole, 1))
    elif kind == "zip":
        with zipfile.ZipFile(made, "w") as archive:
            archive.write(path, "inside.pth")
    else:
        with tarfile.open(made, "w") as tar:
            tar.add(path, "inside.pth")
    return made


@pytest.mark.parametrize(
    ("kind", "command"),
    [("gz", "gunzip -k {}"), ("zip", "unzip -q {}"), ("tar", "tar xf {}")],
)
def test_what_is_packed_is_read_once_unpacked_as_advised(
    tmp_path: Path, imagenet: nn.Module, kind: str, command: str
) -> None:
    plain = save(tmp_path / "w.pth", imagenet.state_dict())
    path = packed(plain, kind)
    program, *_ = command.split()
    assert f"`{'tar xf' if program == 'tar' else program}` it and name" in complaint(
        path, "torchvision", R18
    )
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    subprocess.run(command.format(path).split(), cwd=tmp_path, check=True)
    unpacked = path.with_suffix("") if kind == "gz" else tmp_path / "inside.pth"
    assert read(unpacked) == read(plain)


def test_pointers_of_git_lfs_are_told(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n")
    assert "is a Git LFS pointer, not the weights: `git lfs pull`" in complaint(path, "timm", R18)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole network", "network in a set", "TorchScript", "NumPy"])
def test_what_the_offered_command_writes_is_read(
    tmp_path: Path, imagenet: nn.Module, kind: str
) -> None:
    path = tmp_path / "theirs.pt"
    if kind == "TorchScript":
        torch.jit.script(imagenet).save(path)
    elif kind == "NumPy":
        save(path, {name: tensor.numpy() for name, tensor in imagenet.state_dict().items()})
    elif kind == "whole network":
        save(path, imagenet)
    else:
        save(path, {"model": imagenet, "epoch": 3, "best": Fraction(1, 3)})
    command = shlex.split(complaint(path, "torchvision", R18).splitlines()[-1])
    subprocess.run([sys.executable, *command[1:]], check=True)
    plain = read(save(tmp_path / "plain.pth", imagenet.state_dict()))
    assert read(tmp_path / "theirs.weights.pth") == plain


@pytest.mark.slow
def test_a_checkpoint_of_timms_own_saver_holds_two_sets(tmp_path: Path) -> None:
    import timm
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = timm.create_model("resnet18", pretrained=False)
    CheckpointSaver(
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        args=argparse.Namespace(model="resnet18"),
        model_ema=ModelEmaV3(network),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    ).save_checkpoint(0, 1.0)
    path = tmp_path / "last.pth.tar"
    assert "  state_dict (122 entries)\n  state_dict_ema (122 entries)" in complaint(
        path, "timm", R18
    )
    assert read(path, "timm", "state_dict_ema")


@pytest.mark.slow
def test_a_checkpoint_of_lightly_and_lightning_is_read(tmp_path: Path) -> None:
    """A tutorial's module, compiled and trained for a step by Lightning itself."""
    lightning = pytest.importorskip("pytorch_lightning")
    from lightly.models.modules import BarlowTwinsProjectionHead

    class Module(lightning.LightningModule):
        def __init__(self, lr: float = 0.06) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.backbone = torchvision.models.resnet18()
            self.backbone.fc = nn.Identity()
            self.backbone = torch.compile(self.backbone, backend="eager")
            self.projection_head = BarlowTwinsProjectionHead(512, 8, 8)

        def training_step(self, batch: Any, place: int) -> Tensor:
            return self.projection_head(self.backbone(batch[0])).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    images = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet, default_root_dir=tmp_path)
    trainer.fit(Module(), torch.utils.data.DataLoader(images, batch_size=2))
    trainer.save_checkpoint(tmp_path / "w.ckpt")
    dropped = read_foreign(tmp_path / "w.ckpt", "lightly", R18).dropped
    assert dropped
    assert all(name.startswith("projection_head.") for name in dropped)


def test_reading_allows_nothing_afterwards(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    path = save(tmp_path / "w.ckpt", solo_learn(resnet("resnet18", "7x7-maxpool")))
    read_foreign(path, "solo-learn", Backbone(name="resnet18", stem="7x7-maxpool"))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("end", [".pth", ".old", ".safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_files_are_named(
    end: str, share: float, tmp_path: Path, small_images: State
) -> None:
    path = tmp_path / f"w{end}"
    if end == ".safetensors":
        save_file({"f.0.weight": small_images["f.0.weight"].contiguous()}, path)
    else:
        torch.save(small_images, path, _use_new_zipfile_serialization=end == ".pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    said = complaint(path, "mix-bt", R18_SMALL_IMAGES)
    assert f"{path} (" in said
    assert "your checkpoint file is corrupted" not in said  # torch's advice beside ours


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (
            b"<!DOCTYPE html><html>not found</html>",
            "is a web page, not the weights: fetch them again",
        ),
        (b"PK\x03\x04 and nothing that follows", "truncated, damaged"),
        (b"\x80\x02}q\x00.", "truncated, damaged"),
    ],
)
def test_other_files_are_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert expected in complaint(path, "mix-bt", R18_SMALL_IMAGES)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(1)], "no state dict but <class 'list'>"),
        ({"epoch": 3, "net": {"w": torch.zeros(1)}}, "no state dict but keys epoch, net"),
        ({}, "no state dict"),
        ({"module.f.0.weight": torch.zeros(1), "f.0.weight": torch.ones(1)}, "twice"),
    ],
)
def test_what_is_no_state_dict_is_said(content: Any, expected: str, tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", content)
    assert expected in complaint(path, "mix-bt", R18_SMALL_IMAGES)


def test_wrong_names_in_the_study_are_said(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    assert "cannot read" in complaint(path, "mix-bt", R18_SMALL_IMAGES)
    assert "Did you mean 'mix-bt'?" in complaint(path, "mixbt", R18_SMALL_IMAGES)
    small = Backbone(name="small", stem="3x3", width=8)
    assert "resnet18 or resnet50" in complaint(path, "mix-bt", small)


def test_a_study_can_name_every_layout() -> None:
    assert get_args(study.Layout) == tuple(LAYOUTS)


def test_the_page_says_what_each_layout_drops() -> None:
    page = Path("docs/foreign.md").read_text()
    rows = {row.split("|")[1].strip(): row for row in page.splitlines() if row.startswith("| `")}
    for name, layout in LAYOUTS.items():
        assert all(what in rows[f"`{name}`"] for what in layout.dropped.values()), name
