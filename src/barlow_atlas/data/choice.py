"""Which images of a data set a study takes, and under which protocol. Loads no numpy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from barlow_atlas.data.catalog import CATALOG, DataSet, class_folder, resolve
from barlow_atlas.errors import not_allowed
from barlow_atlas.settings.frozen import NAME, Frozen
from barlow_atlas.settings.training import Positive

Protocol = Literal["clean", "reference"]


def _is_none(value: object) -> bool:
    # What a study does not say leaves no trace, so that a new key changes no text of a run.
    return value is None


class Data(Frozen):
    """Which images, and how many of them."""

    name: str = Field(description="a known data set, or a name of your own together with `path`")
    path: str | None = Field(
        None,
        description="folder with `train/<class>/` and `test/<class>/` (or `val/<class>/`); with "
        "`stored: original` also one with ImageNet's archives or images that others packed",
    )
    stored_size: Positive | None = Field(
        None, description="pixels a side at which images of `path` are stored"
    )
    stored: Literal["original"] | None = Field(
        None,
        exclude_if=_is_none,
        description="instead of `stored_size`: images of `path` are stored as their files have "
        "them, and decoded whenever they are seen",
    )
    classes: Annotated[tuple[str, ...], Field(min_length=2, strict=False)] | None = Field(
        None, exclude_if=_is_none, description="with `stored: original`: only these class folders"
    )
    unreadable: Literal["skip"] | None = Field(
        None,
        exclude_if=_is_none,
        description="with `stored: original`: images that cannot be decoded are left out and "
        "listed in the manifest, where otherwise they are refused",
    )
    fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="stratified share of the training images that is used, and of unlabeled ones",
    )

    @model_validator(mode="after")
    def _is_known_or_has_a_path(self) -> "Data":
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} must be lower-case words joined by - or _")
        of_path = {key: getattr(self, key) for key in ("stored_size", "stored")}
        of_originals = {key: getattr(self, key) for key in ("classes", "unreadable")}
        for key, value in {**of_path, **of_originals}.items():
            if self.path is None and value is not None:
                raise ValueError(f"{key} belongs to a data set given by `path`")
        if self.path is not None and (self.stored_size is None) == (self.stored is None):
            raise ValueError(
                "a data set given by `path` needs either `stored_size` or `stored: original`"
            )
        for key, value in of_originals.items():
            if self.stored is None and value is not None:
                raise ValueError(f"{key} belongs to `stored: original`")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: each name once")
        if self.path is None and self.name not in CATALOG:
            hint = " For images of your own give `path` and `stored_size` or `stored`."
            raise not_allowed("data set", self.name, list(CATALOG), hint)
        if self.path is not None and self.name in CATALOG:
            raise ValueError(f"{self.name!r} is a known data set: with `path` take another name")
        return self

    @property
    def data_set(self) -> DataSet:
        """The facts of the data set that is meant."""
        if self.path is None:
            return resolve(self.name)
        names, unreadable = self.classes or (), self.unreadable or "refuse"
        return class_folder(self.name, self.path, self.stored_size, names, unreadable)
