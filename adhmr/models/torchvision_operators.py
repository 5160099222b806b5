"""Declares torchvision's compiled operators when its library does not load; import this before timm.

torchvision has no CPU build on the package index: beside a CPU torch its C++ library does not load, and `import
torchvision` (which timm needs) then fails on `torchvision::nms`. Only schemas are declared: no detection runs here.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _library_loads() -> bool:
    """Whether torchvision's compiled library can be loaded into this process."""
    specification = importlib.util.find_spec("torchvision")  # finds the package without importing it
    if specification is None or specification.origin is None:
        return True  # no torchvision at all: timm's own error is the clear one
    libraries = sorted(Path(specification.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)


def declare_missing_operators() -> torch.library.Library | None:
    """Declare the operators that torchvision's import registers fakes for, unless its library provides them.

    Returns the library object, which must outlive the process's use of torchvision, or None on a whole build.
    """
    if _library_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library


#: Kept for the life of the process: a fragment's definitions vanish with the object.
LIBRARY = declare_missing_operators()
