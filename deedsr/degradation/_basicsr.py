"""basicsr's blur-kernel functions, importable with a current torchvision.

basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision removed in 0.17. Where the module is
missing, a stand-in that holds the one function basicsr takes from it goes into `sys.modules` before the import.
"""

import importlib.util
import sys
from types import ModuleType

from torchvision.transforms import functional

MISSING = "torchvision.transforms.functional_tensor"

if MISSING not in sys.modules and importlib.util.find_spec(MISSING) is None:
    _stand_in = ModuleType(MISSING, "Stand-in for a module that torchvision removed.")
    _stand_in.rgb_to_grayscale = functional.rgb_to_grayscale
    sys.modules[MISSING] = _stand_in

from basicsr.data.degradations import (  # noqa: E402
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    circular_lowpass_kernel,
)

__all__ = ["bivariate_Gaussian", "bivariate_generalized_Gaussian", "bivariate_plateau", "circular_lowpass_kernel"]
