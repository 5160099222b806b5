"""The parent of every config model. Which fields exist is said by the modules of this package, one per subject."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Refuses unknown keys, cannot be changed after it was read, and checks its defaults too."""

    # protected_namespaces: fields such as `model_dim` are the field's own words, not pydantic's.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
