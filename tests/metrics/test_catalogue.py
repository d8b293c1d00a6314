"""Names of metrics and what a protocol means by them."""

from __future__ import annotations

import pytest

from deedsr.metrics.catalogue import METRICS, PROTOCOLS, select


def test_every_column_is_a_metric():
    for protocol, columns in PROTOCOLS.items():
        assert set(columns.values()) <= set(METRICS), protocol
        assert [metric.name for metric in select(protocol).values()] == list(columns.values())


def test_one_name_two_networks():
    """MANIQA trained on PIPAL reads .64 where MANIQA trained on KonIQ reads .46: the protocol decides, openly."""
    assert select("osediff")["maniqa"] == METRICS["maniqa-pipal"]
    assert select("dreamclear")["maniqa"] == METRICS["maniqa-koniq"]
    assert select("dit4sr")["clipiqa"].pyiqa_name == "clipiqa+_vitL14_512"
    assert "PIPAL" in METRICS["maniqa-pipal"].label
    assert "KonIQ" in METRICS["maniqa-koniq"].label
    with pytest.raises(ValueError, match=r"several meanings .* say maniqa-koniq or maniqa-pipal"):
        select("rgb", ["maniqa"])
    both = select("osediff", ["maniqa", "maniqa-koniq"])
    assert both["maniqa"] != both["maniqa-koniq"]


def test_colour_channels():
    assert select("osediff")["psnr"].name == "psnr-y"
    assert select("rgb")["psnr"].name == "psnr-rgb"
    assert [*select("osediff", ["psnr-rgb", "ssim"])] == ["psnr-rgb", "ssim"]
    assert [*select("osediff", "psnr")] == ["psnr"]


@pytest.mark.parametrize(
    ("protocol", "names", "message"),
    [
        ("seesr", None, "unknown protocol 'seesr'; choose one of osediff"),
        ("osediff", ["psnr", "vmaf"], "unknown metric 'vmaf'; choose one of clip"),
        ("osediff", [], "selects nothing"),
    ],
)
def test_unknown_names(protocol, names, message):
    with pytest.raises(ValueError, match=message):
        select(protocol, names)
