"""Which images of a data set a study takes, and under which protocol. Loads no numpy."""

from typing import Literal

from pydantic import Field, model_validator

from barlow_atlas.data.catalog import CATALOG
from barlow_atlas.errors import not_allowed
from barlow_atlas.settings.frozen import NAME, Frozen
from barlow_atlas.settings.training import Positive

Protocol = Literal["clean", "reference"]


class Data(Frozen):
    """Which images, and how many of them."""

    name: str = Field(description="a known data set, or a name of your own together with `path`")
    path: str | None = Field(
        None, description="folder with `train/<class>/` and `test/<class>/` (or `val/<class>/`)"
    )
    stored_size: Positive | None = Field(
        None, description="pixels a side at which images of `path` are stored"
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
        if self.path is None and self.stored_size is not None:
            raise ValueError("stored_size belongs to a data set given by `path`")
        if self.path is not None and self.stored_size is None:
            raise ValueError("a data set given by `path` needs `stored_size`")
        if self.path is None and self.name not in CATALOG:
            hint = " For images of your own give `path` and `stored_size`."
            raise not_allowed("data set", self.name, list(CATALOG), hint)
        if self.path is not None and self.name in CATALOG:
            raise ValueError(f"{self.name!r} is a known data set: with `path` take another name")
        return self
