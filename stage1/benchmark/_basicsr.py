"""basicsr's degradations, importable with a current torchvision.

basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision removed in 0.17. Where the module is
missing, a stand-in that holds the one function basicsr takes from it goes into `sys.modules` before the import.
Raises ValueError where there is no basicsr.
"""

import importlib.util
import sys
from types import ModuleType

from torchvision.transforms import functional

MISSING = "torchvision.transforms.functional_tensor"

if importlib.util.find_spec("basicsr") is None:
    raise ValueError("this compares with basicsr, which isn't installed (Python 3.13 has none): take Python 3.12")
if MISSING not in sys.modules and importlib.util.find_spec(MISSING) is None:
    _stand_in = ModuleType(MISSING, "Stand-in for a module that torchvision removed.")
    vars(_stand_in)["rgb_to_grayscale"] = functional.rgb_to_grayscale
    sys.modules[MISSING] = _stand_in

from basicsr.data import degradations  # noqa: E402
from basicsr.utils import DiffJPEG, USMSharp  # noqa: E402

__all__ = ["DiffJPEG", "USMSharp", "degradations"]
