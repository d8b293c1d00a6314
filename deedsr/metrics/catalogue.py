"""Which metrics there are, and which of them a published protocol means by a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deedsr.options import one_of


@dataclass(frozen=True)
class Metric:
    """A metric with one meaning only: two networks that papers call by the same name are two metrics.

    label: its name for people. perfect: its value for a picture compared with itself; None where there is none, or an
    infinite one. package: what computes it. files: the weights for that, below torch's hub folder or, as
    ``hub:OWNER/NAME/FILE``, in the Hugging Face cache.
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    package: Literal["deedsr", "pyiqa", "open_clip"]
    needs_reference: bool = False
    perfect: float | None = None
    pyiqa_name: str = ""
    files: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Of its column: the label, and an arrow to where values are better."""
        return f"{self.label} {'↑' if self.better == 'higher' else '↓'}"

    @property
    def of_a_set(self) -> bool:
        """Whether it is one number for a whole set of pictures, not one for each."""
        return self.name == "fid"


_ALEX = "checkpoints/alexnet-owt-7be5be79.pth"
_VGG = "checkpoints/vgg16-397923af.pth"
_VIT = "hub:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k/model.safetensors"

_FIDELITY = [
    Metric("psnr-y", "PSNR-Y", "higher", "deedsr", True),
    Metric("psnr-rgb", "PSNR-RGB", "higher", "deedsr", True),
    Metric("ssim-y", "SSIM-Y", "higher", "deedsr", True, 1.0),
    Metric("ssim-rgb", "SSIM-RGB", "higher", "deedsr", True, 1.0),
    Metric("clip", "CLIP similarity", "higher", "open_clip", True, 1.0),
]


def _pyiqa(name: str, label: str, better: Literal["higher", "lower"], pyiqa_name: str, *files: str) -> Metric:
    """A metric of pyiqa's, which needs the ground truth if its name says so."""
    reference = name.startswith(("lpips", "dists", "fid"))
    return Metric(name, label, better, "pyiqa", reference, 0.0 if reference else None, pyiqa_name, files)


_PERCEPTUAL = [
    _pyiqa("lpips", "LPIPS", "lower", "lpips", _ALEX, "pyiqa/LPIPS_v0.1_alex-df73285e.pth"),
    _pyiqa("lpips-vgg", "LPIPS (VGG)", "lower", "lpips-vgg", _VGG, "pyiqa/LPIPS_v0.1_vgg-a78928a0.pth"),
    _pyiqa("dists", "DISTS", "lower", "dists", _VGG, "pyiqa/DISTS_weights-f5e65c96.pth"),
    _pyiqa("niqe", "NIQE", "lower", "niqe", "pyiqa/niqe_modelparameters.mat"),
    _pyiqa("musiq", "MUSIQ", "higher", "musiq", "pyiqa/musiq_koniq_ckpt-e95806b9.pth"),
    _pyiqa("maniqa-koniq", "MANIQA (KonIQ)", "higher", "maniqa", _VIT, "pyiqa/ckpt_koniq10k.pt"),
    _pyiqa("maniqa-pipal", "MANIQA (PIPAL)", "higher", "maniqa-pipal", _VIT, "pyiqa/MANIQA_PIPAL-ae6d356b.pth"),
    _pyiqa("clipiqa-rn50", "CLIPIQA", "higher", "clipiqa", "clip/RN50.pt"),
    _pyiqa(
        "clipiqa+", "CLIPIQA+", "higher", "clipiqa+", "clip/RN50.pt", "pyiqa/CLIP-IQA+_learned_prompts-603f3273.pth"
    ),
    _pyiqa(
        "clipiqa+_vitL14_512",
        "CLIPIQA+ (ViT-L/14)",
        "higher",
        "clipiqa+_vitL14_512",
        "clip/ViT-L-14.pt",
        "pyiqa/CLIPIQA+_ViTL14_512-e66488f2.pth",
    ),
    _pyiqa("liqe", "LIQE", "higher", "liqe", "clip/ViT-B-32.pt", "pyiqa/liqe_koniq.pt"),
    _pyiqa("fid", "FID", "lower", "fid", "pyiqa/pt_inception-2015-12-05-6726825d.pth"),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _FIDELITY + _PERCEPTUAL}

# Names that papers use for several networks: only a protocol says which one is meant.
_AMBIGUOUS = {
    "psnr": ("psnr-y", "psnr-rgb"),
    "ssim": ("ssim-y", "ssim-rgb"),
    "maniqa": ("maniqa-koniq", "maniqa-pipal"),
    "clipiqa": ("clipiqa-rn50", "clipiqa+_vitL14_512"),
}

_Y = {"psnr": "psnr-y", "ssim": "ssim-y"}
_CLIP = {"clip": "clip"}

PROTOCOLS: dict[str, dict[str, str]] = {
    "osediff": _Y
    | {name: name for name in ("lpips", "dists", "niqe", "musiq")}
    | {"maniqa": "maniqa-pipal", "clipiqa": "clipiqa-rn50", "fid": "fid"}
    | _CLIP,
    "dit4sr": _Y
    | {"lpips": "lpips", "musiq": "musiq", "maniqa": "maniqa-pipal", "clipiqa": "clipiqa+_vitL14_512", "liqe": "liqe"}
    | _CLIP,
    "dreamclear": _Y
    | {name: name for name in ("lpips", "dists", "fid", "niqe", "musiq")}
    | {"maniqa": "maniqa-koniq", "clipiqa": "clipiqa-rn50"}
    | _CLIP,
    "rgb": {"psnr": "psnr-rgb", "ssim": "ssim-rgb", "lpips": "lpips", "dists": "dists", "niqe": "niqe"} | _CLIP,
}
"""Protocol name -> what each of its columns means, in the order of its columns.

``osediff``: 128² -> 512² centre crops, PSNR and SSIM on limited-range BT.601 luma without a border crop (OSEDiff,
PiSA-SR and most work since). ``dit4sr`` and ``dreamclear``: the no-reference networks of these papers, PSNR and SSIM as
in ``osediff``. ``rgb``: PSNR and SSIM on all three channels. ``clip``, semantic fidelity, is our addition to each.
"""


def select(protocol: str, names: Sequence[str] | None = None) -> dict[str, Metric]:
    """The columns of a protocol, or those of `names`: column name -> metric.

    A name means what the protocol means by it; any other name of `METRICS` is taken as it is. Raises ValueError for an
    unknown protocol or metric, and for a name that has several meanings of which the protocol chose none.
    """
    columns = PROTOCOLS[one_of("protocol", protocol, PROTOCOLS)]
    if names is None:
        return {column: METRICS[name] for column, name in columns.items()}
    names = [names] if isinstance(names, str) else names
    if not names:
        raise ValueError("metrics=[] selects nothing; leave it out for all of the protocol's")
    return {name: _resolve(protocol, name) for name in names}


def _resolve(protocol: str, name: str) -> Metric:
    """The metric that `name` means in `protocol`."""
    meant = PROTOCOLS[protocol].get(name, name)
    if meant in _AMBIGUOUS:
        options = " or ".join(_AMBIGUOUS[meant])
        raise ValueError(f"{name!r} has several meanings and protocol {protocol!r} chooses none; say {options}")
    return METRICS[one_of("metric", meant, sorted({*METRICS, *PROTOCOLS[protocol]}))]
