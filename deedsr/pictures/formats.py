"""The file formats: which can be read and written, and what the written ones can hold. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install 'deedsr[formats]'"


@dataclass(frozen=True)
class Format:
    """A file format that can be written.

    name: Pillow's. side: the longest side in pixels. deep: holds 16 bits. alpha: holds transparency. lossy: has a
    quality. icc, exif, xmp, iptc, density: whether it holds these of a `Picture`. module: what must be installed for it
    besides, of the extra ``formats``.
    """

    name: str
    side: int
    deep: bool = False
    alpha: bool = True
    lossy: bool = False
    icc: bool = True
    exif: bool = True
    xmp: bool = True
    iptc: bool = False
    density: bool = True
    module: str | None = None

    @property
    def here(self) -> bool:
        """Whether it can be written on this machine."""
        return self.module is None or find_spec(self.module) is not None


PNG = Format("PNG", side=2**31 - 1, deep=True, iptc=True)
TIFF = Format("TIFF", side=2**31 - 1, deep=True, iptc=True)
WEBP = Format("WEBP", side=16383, lossy=True, density=False)
BMP = Format("BMP", side=2**31 - 1, alpha=False, icc=False, exif=False, xmp=False)
JPEG = Format("JPEG", side=65500, alpha=False, lossy=True, iptc=True)
AVIF = Format("AVIF", side=65536, lossy=True, density=False)
HEIF = Format("HEIF", side=16384, lossy=True, density=False, module="pillow_heif")
JXL = Format("JXL", side=2**30, lossy=True, icc=False, xmp=False, density=False, module="pillow_jxl")

FORMATS = {
    **{".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".tif": TIFF, ".tiff": TIFF, ".bmp": BMP},
    **{".jpe": JPEG, ".jfif": JPEG, ".avif": AVIF, ".heic": HEIF, ".heif": HEIF, ".hif": HEIF, ".jxl": JXL},
}
RAW = {
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".raf", ".rw2", ".pef", ".srw"),
    *(".3fr", ".iiq", ".kdc", ".dcr", ".mrw", ".erf", ".mef", ".mos", ".x3f", ".rwl"),
}
"""Camera RAW, which rawpy develops."""
READ = {".gif", ".apng", ".dib", ".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".psd", ".ico", *RAW}
"""Can be read and not written."""
UNREADABLE = {".svg", ".exr", ".hdr", ".eps", ".ai", ".xcf", ".djvu", ".wmf", ".emf", ".jxr", ".pfm", ".avifs"}
"""Are pictures to people, though none can be read here."""
PICTURES = {*FORMATS, *READ, *UNREADABLE}
READERS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "PSD", "ICO")
"""Of Pillow, by name: those of its formats that start no other program and are no relics."""


def format_of(path: str | Path) -> Format:
    """The format that a file name's extension stands for. Raises ValueError for one that can't be written."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        what = f"can't write {suffix} files" if suffix else "its name has no extension"
        raise ValueError(f"{path}: {what}; choose one of {', '.join(FORMATS)}")
    found = FORMATS[suffix.lower()]
    if not found.here:
        raise ValueError(f"{path}: {suffix} files need more: {INSTALL}; or use `.png`")
    return found


def check_fits(path: str | Path, height: int, width: int, transparent: bool) -> None:
    """Raise ValueError if the format that ``path`` stands for can't hold a picture of this size and kind."""
    kind = format_of(path)
    if max(height, width) > kind.side:
        raise ValueError(
            f"{path}: {kind.name} holds at most {kind.side} pixels a side, not {width}x{height}; use `.png`"
        )
    if transparent and not kind.alpha:
        raise ValueError(f"{path}: {kind.name} holds no transparency; use `.png`")


def needed(data: bytes) -> str | None:
    """What must be installed to read the beginning of a file, if it is not: the name of a module, or None."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        module = "pillow_heif"
    elif data[:2] == b"\xff\x0a" or data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n":
        module = "pillow_jxl"
    else:
        return None
    return None if find_spec(module) else module
