"""Weights that others trained, read into this project's backbones.

A layout says how a published file spells the names of a ResNet's tensors, and which other tensors
it is known to hold; docs/foreign.md tabulates them. Reading is strict: every tensor of the
backbone must be there in its shape, and every other one must be known. Only the backbone is
taken, since foreign weights are probed on its features; projectors differ in depth, bias and
batch norm from one source to the next.

No code from a file is executed. Where a training checkpoint carries settings of a few well-known
types, an inert stand-in takes their place; what else would need code is refused.
"""

import difflib
import functools
import hashlib
import io
import pickle
import re
import shlex
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from barlow_atlas.errors import AtlasError
from barlow_atlas.nn.networks import build_backbone
from barlow_atlas.settings.training import Backbone

COMMON_STEMS = ("3x3", "3x3-maxpool", "7x7-maxpool")
SETTINGS = [
    Backbone.model_validate({"name": name, "stem": stem})
    for name in ("resnet18", "resnet50")
    for stem in ("3x3-pad2", *COMMON_STEMS)
]
# A ResNet's parts in torchvision's order; a Sequential of them has their places as names.
PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
# What DataParallel and its kin, torch.compile, FSDP and activation checkpointing put into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# How deep in a training checkpoint a network's tensors are looked for.
DEEPEST = 3
# Stands for the file itself where it holds tensors by name beside other sets of them.
TOP = "top"
# Known in every layout.
DROPPED = {r"(.+\.)?n_averaged": "number of averaged networks"}
# How many differences are listed of a file that is nothing like what was named.
SHOWN = 10
# What files older than PyTorch 0.4.1 lack; nothing here depends on its value.
COUNTER = "num_batches_tracked"
# Types of settings and scores beside the tensors; nothing of them is needed.
SETTINGS_TYPES = re.compile(
    r"argparse\.Namespace|omegaconf\..+|pathlib\..+|typing\.Any|numpy\..+"
    r"|collections\..+|datetime\..+|builtins\.(bool|complex|dict|float|int|list|set|slice|str|tuple)"
    r"|builtins\.(bytes|bytearray|frozenset|range)|_codecs\.encode|types\.SimpleNamespace"
    r"|(pytorch_lightning|lightning|lightning_fabric)\..+|yacs\.config\.CfgNode|.+Dict"
)
# Those of them that are filled like a dict, or like a list.
MAPPINGS = re.compile(r".+[dD]ict|collections\.Counter|yacs\.config\.CfgNode")
SEQUENCES = re.compile(r"collections\.deque|builtins\.list")
# How torch says that a file asks for more than tensors and plain values.
UNKNOWN_GLOBAL = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed")
NEEDS_CODE = re.compile(
    r"(torchscript checkpoint|unsupported (?:global|operand|persistent)|can only"
    r"|trying to (?:call|load))"
    r"[^.\n]*(?:\.\w+)*",
    re.IGNORECASE,
)
# Tensors by name, in sets as the file has them, and nothing else.
CONVERSION = (
    "import sys, torch; "
    "f = lambda x: f(x.state_dict()) if hasattr(x, 'state_dict') else "
    "{str(k): y for k, v in x.items() if (y := f(v)) is not None} if isinstance(x, dict) else "
    "torch.as_tensor(x) if isinstance(x, torch.Tensor) or type(x).__name__ == 'ndarray' else None; "
    "torch.save(f(torch.load(sys.argv[1], 'cpu', weights_only=False)), sys.argv[2])"
)
# How files begin that hold no weights, or hold them packed; what they are, and what to do.
OTHER_FILES = {
    b"version https://git-lfs": (
        "a Git LFS pointer, not the weights",
        "`git lfs pull` in its repository fetches them",
    ),
    b"<": ("a web page, not the weights", "fetch them again, by the link that the page names"),
    b"\x1f\x8b": ("compressed with gzip", "`gunzip` it and name what comes out"),
}


class ForeignError(AtlasError):
    """A foreign file that cannot be read, or does not hold the backbone it was named for."""


# The name that a file gives to a tensor: (its name in torchvision's ResNet, stem) -> name.
Spelling = Callable[[str, str], str]


def _named(prefix: str) -> Spelling:
    """torchvision's own names: `<prefix>layer1.0.conv1.weight`."""
    return lambda name, stem: prefix + name


def _numbered(prefix: str, *, pool_counts: bool) -> Spelling:
    """Names of a Sequential of the ResNet's parts: `<prefix>4.0.conv1.weight` for layer1.

    Without `pool_counts`, a stem that has no max-pool leaves its place out: layer1 is 3.
    """

    def spell(name: str, stem: str) -> str:
        without = "maxpool" if stem == "3x3" and not pool_counts else None
        part, _, rest = name.partition(".")
        return f"{prefix}{[p for p in PARTS if p != without].index(part)}.{rest}"

    return spell


@dataclass(frozen=True)
class Layout:
    """How one source writes a ResNet."""

    spellings: tuple[Spelling, ...]  # a file uses one of them
    dropped: dict[str, str]  # pattern of a whole name -> what it is; known and not needed
    stems: tuple[str, ...] = COMMON_STEMS  # those that compute what the source's network computes
    note: str = ""  # what cannot be read, for the error


LAYOUTS: dict[str, Layout] = {
    # wgcban/mix-bt model.py, main.py: f is a Sequential without the classifier, and without the
    # max-pool on CIFAR; g is the projector. thop's profiler leaves two counters in each module.
    "mix-bt": Layout(
        spellings=(_numbered("f.", pool_counts=False),),
        dropped={
            r"g\..+": "projector",
            r"(.+\.)?total_(ops|params)": "counters of a FLOP profiler",
        },
        stems=("3x3", "3x3-maxpool"),
    ),
    # facebookresearch/barlowtwins main.py, evaluate.py: resnet50.pth (torch.hub) and
    # checkpoint.pth. The ImageNet files of mix-bt are of this form too.
    "barlowtwins": Layout(
        spellings=(_named("backbone."), _named("")),
        dropped={
            r"projector\..+": "projector",
            r"bn\..+": "normalisation of the embeddings",
            r"fc\..+": "linear probe",
        },
        stems=("7x7-maxpool",),
    ),
    # vturrisi/solo-learn solo/methods/base.py; `encoder.` in its first releases.
    "solo-learn": Layout(
        spellings=(_named("backbone."), _named("encoder.")),
        dropped={
            r"(projector|predictor2?|head|transformer_encoder)\..+": "heads of pre-training",
            r"prototypes\..+|dino_loss_func\..+": "prototypes and centre",
            r"classifier\..+": "online classifier",
            r"momentum_(backbone|encoder|projector|head|classifier)\..+": "momentum copies",
            r"queue(_y|_ptr|_index)?": "queue",
        },
        stems=("3x3-pad2", "7x7-maxpool"),
        note="solo-learn's networks for CIFAR pad the first 3x3 convolution by 2 pixels, which "
        "shapes do not show: their stem is 3x3-pad2",
    ),
    # lightly-ai/lightly benchmarks/imagenet/resnet50 (names), and its Imagenette benchmark and
    # tutorials (a Sequential in which max-pool, or its Identity, keeps its place).
    "lightly": Layout(
        spellings=(_named("backbone."), _numbered("backbone.", pool_counts=True)),
        dropped={
            r"(projection_head|prediction_head|prototypes)\..+": "heads of pre-training",
            r"(online_classifier|criterion)\..+": "online classifier, state of the loss",
            r"(backbone|projection_head)_momentum\..+": "momentum copies",
            r"(student|teacher|query)_(backbone|projection_head|prediction_head)\..+": "the other "
            "network of a pair",
        },
        note="lightly's CIFAR-10 benchmark has a ResNet of its own (names with `shortcut`), whose "
        "Sequential leaves out the ReLU of the stem; no backbone here computes that",
    ),
    # facebookresearch/moco main_moco.py (v2, encoder_q is evaluated) and moco-v3 (base_encoder).
    "moco": Layout(
        spellings=(_named("encoder_q."), _named("base_encoder.")),
        dropped={
            r"(encoder_q|base_encoder)\.fc\..+": "heads of pre-training",
            r"(encoder_k|momentum_encoder)\..+": "momentum copies",
            r"predictor\..+": "predictor",
            r"queue(_ptr)?": "queue",
        },
        stems=("7x7-maxpool",),
    ),
    # facebookresearch/dino main_dino.py: a checkpoint's `student` or `teacher`, or the published
    # backbone on its own.
    "dino": Layout(
        spellings=(_named("backbone."), _named("")),
        dropped={r"head\..+": "projection head", r"(backbone\.)?fc\..+": "classifier"},
        stems=("7x7-maxpool",),
    ),
    # facebookresearch/swav src/resnet50.py, whose padding before its first convolution is the
    # usual one taken apart.
    "swav": Layout(
        spellings=(_named(""),),
        dropped={r"projection_head\..+": "projection head", r"prototypes\..+": "prototypes"},
        stems=("7x7-maxpool",),
    ),
    # facebookresearch/vicreg main_vicreg.py (checkpoint) and its resnet50.pth (torch.hub).
    "vicreg": Layout(
        spellings=(_named("backbone."), _named("")),
        dropped={r"projector\..+": "projector", r"fc\..+": "linear probe"},
        stems=("7x7-maxpool",),
    ),
    # huggingface/pytorch-image-models: resnet18 and resnet50, not those with another stem
    # (resnet50d, resnet50s), whose names differ; its training checkpoints hold two sets.
    "timm": Layout(
        spellings=(_named(""),),
        dropped={r"fc\..+": "classifier"},
        stems=("7x7-maxpool",),
    ),
    # torchvision's weights, and checkpoints of the training scripts that write its names.
    "torchvision": Layout(spellings=(_named(""),), dropped={r"fc\..+": "classifier"}),
}


@dataclass(frozen=True)
class Foreign:
    """What was taken from a file, and what was not."""

    weights: dict[str, Tensor]  # `backbone.<name>`, dtype as in the backbone, contiguous, on CPU
    dropped: list[str]  # names in the file, without `module.`, that are known and not needed
    sha256: str  # of the whole file


def read_foreign(
    path: Path, layout: str, backbone: Backbone, weights: str | None = None
) -> Foreign:
    """The backbone's weights from the file at `path`, which is in one of `LAYOUTS`.

    Floating-point tensors are converted to the backbone's float32; a missing
    `num_batches_tracked` is 0.

    Args:
        weights: which set of tensors to take, where the file holds several.

    Raises:
        ForeignError: if the layout or backbone is unknown, the file cannot be read without
            executing code, or its tensors are not exactly the backbone's; all differences are
            listed, and what the file would fit.
    """
    if layout not in LAYOUTS:
        near = difflib.get_close_matches(layout, LAYOUTS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ForeignError(f"unknown layout {layout!r}.{meant} Known: {', '.join(LAYOUTS)}.")
    if backbone.name == "small":
        raise ForeignError(
            f"{path}: the backbone small exists in this project only. Name the backbone that the "
            "weights were trained in: resnet18 or resnet50"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ForeignError(f"cannot read {path}: {error.strerror}") from error
    state = _state_dict(path, content, weights)
    problems = list(_problems(state, LAYOUTS[layout], backbone))
    if problems:
        raise ForeignError(_explain(path, state, layout, backbone, problems))
    names = _spelled(state, LAYOUTS[layout], backbone)
    dropped, _ = _rest(state, LAYOUTS[layout], set(names.values()))
    return Foreign(
        weights={
            f"backbone.{ours}": _taken(state.get(names[ours]), expected)
            for ours, expected in _expected(backbone).items()
        },
        dropped=dropped,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _state_dict(path: Path, content: bytes, weights: str | None) -> dict[str, Any]:
    """The file's tensors by name, taken out of a training checkpoint and of `WRAPPERS`."""
    checkpoint = _read(path, content)
    sets = dict(_sets(checkpoint))
    if not sets:
        raise ForeignError(_no_state_dict(path, checkpoint))
    if (weights is None and len(sets) > 1) or (weights is not None and weights not in sets):
        listed = "\n".join(f"  {name} ({len(tensors)} entries)" for name, tensors in sets.items())
        asked = "several sets" if weights is None else f"no set {weights!r}, but these sets"
        raise ForeignError(
            f"{path} holds {asked} of weights:\n{listed}\nSay which one the study takes, beside "
            f"its layout, such as `weights: {next(iter(sets))}`."
        )
    chosen = sets[weights] if weights else next(iter(sets.values()))
    state = {_unwrapped(str(name)): value for name, value in chosen.items()}
    if len(state) < len(chosen):
        raise ForeignError(
            f"{path} gives some tensors twice, with and without {' or '.join(map(repr, WRAPPERS))} "
            "in their names. Save one of the two networks on its own"
        )
    return state


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _sets(checkpoint: Any) -> dict[str, dict[Any, Any]]:
    """The sets of a network's tensors in a file, by the keys that lead to them.

    Where some have the weights of convolutions, as all backbones here have, only these count: the
    others are heads or an optimizer's.
    """
    sets = dict(_named_tensors(checkpoint, ()))
    networks = {name: each for name, each in sets.items() if _most_dimensions(each) > 2}
    return networks or sets


def _named_tensors(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[Any, Any]]]:
    if not isinstance(node, dict) or len(keys) > DEEPEST:
        return
    if _most_dimensions(node) >= 0:
        yield ".".join(keys) or TOP, node
    for key, value in node.items():
        yield from _named_tensors(value, (*keys, str(key)))


def _most_dimensions(tensors: dict[Any, Any]) -> int:
    """Of the tensors whose names end in `weight`; -1 if there is none."""
    return max(
        (
            value.dim()
            for name, value in tensors.items()
            if isinstance(value, Tensor) and str(name).endswith("weight")
        ),
        default=-1,
    )


def _no_state_dict(path: Path, checkpoint: Any) -> str:
    kind = (
        f"keys {', '.join(map(str, checkpoint))}"
        if isinstance(checkpoint, dict)
        else type(checkpoint)
    )
    text = (
        f"{path} holds no state dict but {str(kind)[:500]}. Expected: tensors by name, on their "
        "own or in a training checkpoint"
    )
    return f"{text}. {_conversion(path)}" if _has_ignored(checkpoint) else text


def _has_ignored(node: Any) -> bool:
    """Whether something stands in for what could be tensors, as for NumPy's arrays."""
    inside = node.values() if isinstance(node, dict) else ()
    return isinstance(node, _Ignored) or any(map(_has_ignored, inside))


def _read(path: Path, content: bytes) -> Any:
    """The file's content, of safetensors or torch.save; nothing in it is executed."""
    if not content:
        raise ForeignError(f"{path} is empty. Fetch it again")
    for beginning, (what, remedy) in OTHER_FILES.items():
        if content.startswith(beginning):
            raise ForeignError(f"{path} is {what}: {remedy}")
    if content[257:262] == b"ustar":
        raise ForeignError(f"{path} is a tar archive: `tar xf` it and name the file in it")
    try:
        if content[8:9] == b"{":  # safetensors: length of the header, then its JSON
            return load_safetensors(content)
        return _load_without_code(path, content)
    except ForeignError:
        raise
    except Exception as error:  # whatever a damaged file may cause in torch's reader
        inside = _zip_names(content)
        if inside and not any(name.endswith("data.pkl") for name in inside):
            raise ForeignError(
                f"{path} is a zip archive of {', '.join(inside[:5])}: `unzip` it and name the file "
                "with the weights"
            ) from error
        refused = NEEDS_CODE.search(str(error))
        if refused:
            raise _needs_code(path, refused[0]) from error
        # Torch puts general advice before and after what has happened.
        happened = re.split(r"\n|\. ", str(error).rpartition("WeightsUnpickler error:")[2].strip())[
            0
        ]
        raise ForeignError(
            f"{path} ({len(content):,} bytes, begins with {content[:8]!r}) is truncated, damaged, "
            "or neither safetensors nor written by torch.save "
            f"({happened or type(error).__name__}). Fetch it again and compare its size and "
            "checksum with the source's"
        ) from error


def _zip_names(content: bytes) -> list[str]:
    """What a zip archive holds; nothing if it is none, or damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return []


class _Ignored:
    """Stands in for a setting's type while a checkpoint is read, and does nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _IgnoredMapping(_Ignored):
    """The same for what is filled like a dict; torch fills nothing but dicts of its own types."""

    def __new__(cls, *args: object) -> Any:
        return OrderedDict()


class _IgnoredSequence(_Ignored):
    """The same for what is filled like a list."""

    def __new__(cls, *args: object) -> Any:
        return []


def _stand_in(name: str) -> type[_Ignored]:
    if MAPPINGS.fullmatch(name):
        return _IgnoredMapping
    return _IgnoredSequence if SEQUENCES.fullmatch(name) else _Ignored


def _load_without_code(path: Path, content: bytes) -> Any:
    """torch.load, restricted to tensors and plain values, with stand-ins for settings."""
    wanted: set[str] = set()
    if content.startswith(b"PK"):  # a zip tells all its types at once; the older format does not
        wanted |= set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
    code = sorted(name for name in wanted if not SETTINGS_TYPES.fullmatch(name))
    if code:
        raise _needs_code(path, f"it names {', '.join(code)}")
    while True:
        stand_ins: list[Any] = [(_stand_in(name), name) for name in sorted(wanted)]
        try:
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            unknown = UNKNOWN_GLOBAL.search(str(error))
            if unknown is None:
                raise
            # Torch leaves `builtins.` away.
            name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
            if name in wanted or not SETTINGS_TYPES.fullmatch(name):
                raise _needs_code(path, f"it names {name}") from error
            wanted.add(name)


def _needs_code(path: Path, reason: str) -> ForeignError:
    return ForeignError(
        f"{path} can only be loaded by executing code from it ({reason}), which is never done "
        f"here. {_conversion(path)}"
    )


def _conversion(path: Path) -> str:
    """How to take the tensors out of a file, and what to name then."""
    converted = path.with_name(f"{path.stem}.weights.pth")
    command = shlex.join(["python", "-c", CONVERSION, str(path), str(converted)])
    return (
        "If you trust its origin, take the tensors out of it where it may run, with the "
        f"packages it was written with installed, and name {converted.name} instead:\n  {command}"
    )


@functools.cache
def _expected(backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's tensors by name, without storage (device meta)."""
    with torch.device("meta"):
        network, _ = build_backbone(backbone)
    return network.state_dict()


def _spelled(state: dict[str, Any], layout: Layout, backbone: Backbone) -> dict[str, str]:
    """The backbone's names -> the file's, in the spelling that the file has most names of."""
    names = [
        {name: spell(name, backbone.stem) for name in _expected(backbone)}
        for spell in layout.spellings
    ]
    return max(names, key=lambda spelled: sum(name in state for name in spelled.values()))


def _rest(state: dict[str, Any], layout: Layout, taken: set[str]) -> tuple[list[str], list[str]]:
    """The names that are not taken: those dropped on purpose, and those nobody expects."""
    rest = [name for name in state if name not in taken]
    known = (*layout.dropped, *DROPPED)
    dropped = [name for name in rest if any(re.fullmatch(p, name) for p in known)]
    return dropped, [name for name in rest if name not in dropped]


def _problems(state: dict[str, Any], layout: Layout, backbone: Backbone) -> Iterator[str]:
    """Everything in which the file is not the backbone in this layout, a line each."""
    names = _spelled(state, layout, backbone)
    _, unexpected = _rest(state, layout, set(names.values()))
    if backbone.stem not in layout.stems:
        yield f"stem {backbone.stem}: the layout has {' or '.join(layout.stems)}"
    for ours, expected in _expected(backbone).items():
        theirs = names[ours]
        if theirs in state:
            difference = _difference(state[theirs], expected)
            if difference:
                yield f"misfit {theirs}: {difference}"
        elif not ours.endswith(COUNTER):
            # Only a tensor of the same shape can be the one that is meant.
            alike = [name for name in unexpected if _shape(state[name]) == _shape(expected)]
            near = difflib.get_close_matches(theirs, alike, n=1, cutoff=0.0)
            hint = f"; nearest of this shape: {near[0]}" if near else ""
            yield f"missing {theirs} {_shape(expected)}{hint}"
    for name in unexpected:
        yield f"unexpected {name} {_shape(state[name])}"


def _difference(entry: Any, expected: Tensor) -> str | None:
    """Why `entry` cannot be the tensor `expected`, if it cannot."""
    if _shape(entry) != _shape(expected):
        return f"found {_shape(entry)}, expected {_shape(expected)}"
    if entry.layout != torch.strided or entry.is_quantized or entry.is_meta:
        return "is sparse, quantised or without values; expected a plain tensor"
    if entry.is_floating_point() != expected.is_floating_point():
        return f"found {entry.dtype}, expected {expected.dtype}"
    if not bool(torch.isfinite(entry.to(expected.dtype)).all()):
        return "holds NaN or infinite values"
    return None


def _shape(value: Any) -> str:
    return (
        str(tuple(value.shape)) if isinstance(value, Tensor) else f"of type {type(value).__name__}"
    )


def _taken(entry: Tensor | None, expected: Tensor) -> Tensor:
    """A copy that shares no memory with the file's other tensors; the counter 0 for none."""
    if entry is None:
        return torch.zeros(expected.shape, dtype=expected.dtype)
    return entry.detach().to(expected.dtype, copy=True).contiguous()


def _distance(state: dict[str, Any], layout: Layout, backbone: Backbone) -> int:
    """The number of names under which file and backbone hold different shapes."""
    names = _spelled(state, layout, backbone)
    dropped, _ = _rest(state, layout, set(names.values()))
    wanted = {
        (names[ours], _shape(expected))
        for ours, expected in _expected(backbone).items()
        if names[ours] in state or not ours.endswith(COUNTER)
    }
    given = {(name, _shape(state[name])) for name in state.keys() - set(dropped)}
    return len({name for name, _ in wanted ^ given})


def _explain(
    path: Path, state: dict[str, Any], layout: str, backbone: Backbone, problems: list[str]
) -> str:
    """All problems, what the file would fit, and what to do."""
    distances = {
        f"layout {name} with {other.name}, stem {other.stem}": _distance(state, candidate, other)
        for name, candidate in LAYOUTS.items()
        for other in SETTINGS
        if other.stem in candidate.stems
    }
    fewest = min(distances.values())
    nearest = ", or ".join(name for name, distance in distances.items() if distance == fewest)
    alike = 2 * fewest < len(state)
    advice = "Name another file, or take the network's own tensors out of this one"
    if not alike:
        begin = _beginnings(state)
        advice = f"It is like no layout known here; its names begin with {begin}. {advice}"
    elif fewest < _distance(state, LAYOUTS[layout], backbone):
        advice = (
            f"It is nearest to {nearest} ({fewest} names differ). {advice}"
            if fewest
            else f"It fits {nearest}: name that in the study"
        )
    listed = problems if alike else problems[:SHOWN]
    left_out = [f"and {len(problems) - len(listed)} more"] if len(listed) < len(problems) else []
    note = LAYOUTS[layout].note
    return "\n".join(
        [
            f"{path} is not {backbone.name} with stem {backbone.stem} in layout {layout}. "
            f"Differences: {len(problems)}",
            *(f"  {problem}" for problem in (*listed, *left_out)),
            *([f"Known: {note}."] if note else []),
            f"{advice}. docs/foreign.md says what each layout holds.",
        ]
    )


def _beginnings(state: dict[str, Any]) -> str:
    """Such as `encoder_q. (122), queue (1)`: the names by their first parts, most first."""
    first = Counter("".join(name.partition(".")[:2]) for name in state)
    told = [f"{name} ({count})" for name, count in first.most_common(8)]
    return ", ".join(told) + (" ..." if len(first) > len(told) else "")
