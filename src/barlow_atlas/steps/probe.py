"""All probes and label-free signals of one milestone of a run, or of several, as probe files."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from barlow_atlas.atomic import write_atomically
from barlow_atlas.data.prepared import LABEL_LISTS, MANIFEST, load
from barlow_atlas.nn.devices import device_for
from barlow_atlas.nn.networks import build
from barlow_atlas.nn.randomness import generator
from barlow_atlas.probes.milestone import Milestone, choose
from barlow_atlas.probes.signals import FOREIGN_BATCH_SIZE, signals
from barlow_atlas.store.provenance import device_name, made_by
from barlow_atlas.store.snapshot import Manifest, read_manifest_of, read_weights
from barlow_atlas.study.models import ForeignRun, Probes, Run, Study
from barlow_atlas.study.paths import DATA, FEATURES, probe_file, probed_milestone
from barlow_atlas.workflow.sources import probing_code


def probe(name: str, study: Study, runs: Sequence[str], epoch: int, device: str | None) -> None:
    """Asks the milestones of runs at one epoch all that their study asks, and stores the answers.

    Raises:
        StudyError: no such run.
        SnapshotError: the milestone is missing, damaged or another run's.
        ProbeError: images or features that give no answer.
    """
    for run in map(study.run, runs):
        checkpoint = probed_milestone(name, run, epoch)
        kept = FEATURES / name / run.name / f"epoch_{epoch:04d}"
        content = asked(name, study, run, epoch, checkpoint, device, kept)
        told = json.dumps(content, indent=1) + "\n"
        write_atomically(probe_file(name, run, epoch), told.encode())
        shutil.rmtree(kept, ignore_errors=True)


def asked(
    name: str,
    study: Study,
    run: Run | ForeignRun,
    epoch: int,
    checkpoint: Path,
    device: str | None,
    kept: Path | None = None,
) -> dict[str, Any]:
    """The content of the probe file of the milestone whose manifest is `checkpoint`.

    Args:
        kept: a folder for what would be extracted again if this is ended: features of encoded
            images, under the hash of all that they follow from.
    """
    started = time.monotonic()
    manifest = read_manifest_of(checkpoint, run)
    weights = read_weights(checkpoint, manifest)
    prepared = load(DATA / run.data.name)
    chosen = prepared.select(run.protocol, run.data.fraction)
    train = prepared.train_images, prepared.train_labels
    splits = {
        "train": choose(*train, chosen.probe_training),
        "test": choose(prepared.test_images, prepared.test_labels, chosen.test),
    }
    if len(chosen.validation):
        splits["validation"] = choose(*train, chosen.validation)
    place = device_for(device, run.threads)
    network = build(run.architecture, generator(run.seed, "weights"))
    network.load_state_dict(weights)
    _, *others = study.data_sets()
    milestone = Milestone(
        network=network.to(place),
        subject=run,
        splits=splits,
        classes=len(prepared.manifest.classes),
        device=place,
        others={data_set.name: load(DATA / data_set.name) for data_set in others},
        kept=kept / follows_from(manifest, study) if kept else None,
    )
    batch_size = run.batch_size if isinstance(run, Run) else FOREIGN_BATCH_SIZE
    told = {
        "signals": signals(milestone, batch_size),
        "results": list(answers(study.probes, milestone)),
    }
    return {
        "format": 3,
        "study": name,
        "name": run.name,
        "epoch": epoch,
        "run": run.model_dump(mode="json"),
        # All that the lineage hashes: the chain can be followed in probe files alone.
        "checkpoint": manifest.model_dump(mode="json", exclude={"format", "study", "run"}),
        # By which code, and what was asked: so it can be told whether another would ask the same.
        "probed": {
            "sources_sha256": probing_code(study),
            **made_by(device_name(place), time.monotonic() - started),
        },
        "asked": study.probes.model_dump(mode="json"),
        **told,
    }


def follows_from(manifest: Manifest, study: Study) -> str:
    """A hash of all that answers follow from beside the probes' settings: a milestone's lineage,
    which tells run and weights, this code, the images that are here now, and the probes' facts."""
    told = hashlib.sha256(f"{manifest.lineage} {probing_code(study)}".encode())
    for data_set in study.data_sets():
        for file in (MANIFEST, LABEL_LISTS):
            path = DATA / data_set.name / file
            told.update(path.read_bytes() if path.is_file() else b"")
    for probe in study.probes.asked():
        told.update("".join(probe.facts()).encode())
    return told.hexdigest()


def answers(probes: Probes, milestone: Milestone) -> Iterator[dict[str, Any]]:
    """What a milestone answers to all probes of a study, as records.

    Raises:
        ProbeError: images that give no answer.
    """
    milestone.check_labels()
    for kind, asked in probes.by_kind():
        yield from kind.run(asked, milestone)
