"""What every table of a recipe has in common."""

from typing import Annotated

import pydantic
from pydantic import Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Table(pydantic.BaseModel):
    """A table whose keys, types and ranges are all checked, and which never changes afterwards."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, validate_default=True, strict=True, allow_inf_nan=False)
