"""A milestone for the Hugging Face hub: its weights, its manifest, and its model card as README."""

import importlib
import shutil
from pathlib import Path
from typing import Any

from barlow_atlas.atomic import sync_tree, write_atomically, writing
from barlow_atlas.errors import AtlasError
from barlow_atlas.study.models import Study
from barlow_atlas.study.paths import probed_milestone
from barlow_atlas.tools.export.cards import model_card
from barlow_atlas.tools.export.citation import read_citation
from barlow_atlas.tools.export.stored import Stored


class HubError(AtlasError):
    """A milestone that cannot be published."""


def write_repository(name: str, study: Study, run: str, epoch: int | None, folder: Path) -> Path:
    """Writes what a model's repository holds into a new folder; runs in the repository's root.

    `barlow_atlas.load` reads it wherever it is.

    Args:
        name: the study's, as its file in `params/`.
        run: its name.
        epoch: a milestone; None for the last one that is here.

    Returns:
        Where the weights lie in it, without ending.

    Raises:
        HubError: the folder holds something, or the weights are not here.
        StudyError: the study has no such run.
        StoredError: nothing is stored of the milestone, or of other parameters.
        RecordError: the record or a probe file is damaged.
        CitationError: CITATION.cff lacks something.
        WriteError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HubError(f"{folder} is there and not an empty folder; name a new one")
    stored = Stored(name, study)
    content = stored.milestone(study.run(run), epoch)
    manifest = probed_milestone(name, study.run(run), content["epoch"])
    files = [manifest, manifest.with_suffix(".safetensors")]
    for file in files:
        if not file.is_file():
            raise HubError(
                f"{file} is not here. If it was shared, `dvc pull {manifest.parent}` brings it; "
                f"else `atlas run {name}` trains it"
            )
    images = stored.images.get(stored.own_images)
    card = model_card(content, study.title, stored.curves, read_citation(), images)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)
        write_atomically(folder / "README.md", card.encode())
        sync_tree(folder)
    return folder / manifest.stem


def push(folder: Path, repository: str, private: bool) -> str:
    """Puts a folder on the hub, as whoever `hf auth login` has logged in.

    Args:
        repository: such as `somebody/barlow-twins-digits`; is made if there is none.
        private: whether only its owner may see one that is made.

    Returns:
        Its address.

    Raises:
        HubError: huggingface_hub is not installed, or the hub does not take it.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            f"huggingface_hub is not installed ({error}): `pip install 'barlow-atlas[hub]'`"
        ) from error
    api = hub.HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    # Its own errors, those of its HTTP client, and ValueError for a wrong name have no common kind.
    except Exception as error:
        raise HubError(
            f"the hub did not take {repository}: {' '.join(str(error).split())}. {folder} holds "
            f"what was to go there; `hf auth login` says who you are, then `hf upload {repository} "
            f"{folder}` tries again"
        ) from error
    return str(made)
