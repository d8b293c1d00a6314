"""The evaluator: rows, columns that can't be had, and one picture at a time."""

from __future__ import annotations

import weakref

import pytest
import torch
from PIL import Image

from deedsr.metrics import evaluation
from deedsr.metrics.catalogue import METRICS
from deedsr.metrics.evaluation import BICUBIC, RESTORED, TRUTH, Evaluator
from deedsr.metrics.fidelity import psnr, ssim
from deedsr.metrics.outputs import Sample, bicubic
from deedsr.metrics.table import means


@pytest.fixture
def samples(draw):
    return [Sample(f"s{i}", draw(48, 64, i), draw(48, 64, i + 1), draw(12, 16, i)) for i in range(3)]


def test_rows(samples):
    report = Evaluator("osediff", ["psnr", "ssim"]).run(samples)
    assert [*report.rows] == [RESTORED, BICUBIC, TRUTH]
    assert report.stems == ["s0", "s1", "s2"]
    sample = samples[1]
    scores = report.rows[RESTORED].images["s1"]
    assert scores == {
        "psnr": pytest.approx(float(psnr(sample.restored, sample.hr))),
        "ssim": pytest.approx(float(ssim(sample.restored, sample.hr))),
    }
    large = bicubic(sample.lr, (48, 64))
    assert report.rows[BICUBIC].images["s1"]["psnr"] == pytest.approx(float(psnr(large, sample.hr)))
    assert report.rows[TRUTH].images["s1"] == {"ssim": 1.0}
    assert report.unavailable == {}
    assert report.versions["torch"] == torch.__version__


def test_protocol_decides_the_channel(samples):
    y, rgb = (Evaluator(name, ["psnr"]).run(samples).rows[RESTORED].images["s0"]["psnr"] for name in ("osediff", "rgb"))
    assert y == pytest.approx(float(psnr(samples[0].restored, samples[0].hr, "y")))
    assert rgb == pytest.approx(float(psnr(samples[0].restored, samples[0].hr, "rgb")))


def test_bicubic_is_pillows(draw):
    lr = draw(12, 16, 0)
    pixels = Image.fromarray((lr[0].permute(1, 2, 0) * 255).round().byte().numpy())
    expected = pixels.resize((64, 48), Image.Resampling.BICUBIC)
    ours = (bicubic(lr, (48, 64))[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert (ours == expected).all()


def test_unavailable_columns_stay_with_a_reason(samples, tmp_path, monkeypatch):
    pytest.importorskip("pyiqa")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    report = Evaluator("osediff").run(samples)
    assert [*report.unavailable] == ["lpips", "dists", "niqe", "musiq", "maniqa", "clipiqa", "fid", "clip"]
    assert all("needs" in reason for reason in report.unavailable.values())
    found = means(report, report.rows[RESTORED])
    assert [*found] == [*report.metrics]
    assert found["psnr"] > 0
    assert found["maniqa"] is None


def test_a_failing_metric_does_not_stop_the_others(draw, needs_weights):
    """NIQE can't take a picture smaller than its blocks."""
    needs_weights("niqe")
    report = Evaluator(metrics=["niqe", "psnr"]).run([Sample("tiny", draw(24, 24, 0), draw(24, 24, 1))])
    assert "niqe" in report.unavailable
    assert "tiny" in report.unavailable["niqe"]
    assert [*report.rows[RESTORED].images["tiny"]] == ["psnr"]


def test_a_column_has_all_pictures_or_none(draw):
    """SSIM fails on the second picture: its value for the first would be no mean of the set."""
    samples = [Sample("large", draw(24, 24, 0), draw(24, 24, 1)), Sample("small", draw(8, 8, 0), draw(8, 8, 1))]
    report = Evaluator(metrics=["ssim", "psnr"]).run(samples)
    assert report.unavailable == {"ssim": "SSIM-Y failed on small: ValueError: SSIM needs images of at least 11 pixels "
                                  "a side, got 8×8"}  # fmt: skip
    assert all([*scores] == ["psnr"] for scores in report.rows[RESTORED].images.values())


def test_not_finite_is_no_score(draw):
    broken = draw(24, 24, 0).mul(float("nan"))
    report = Evaluator(metrics=["psnr"]).run([Sample("s", broken, draw(24, 24, 1))])
    assert report.unavailable == {"psnr": "PSNR-Y is not finite on s (restored)"}
    assert report.deciding is None


def test_without_ground_truth(draw):
    report = Evaluator(metrics=["psnr"]).run([Sample("s", draw(24, 24, 0))])
    assert report.unavailable == {"psnr": "PSNR-Y needs the ground truth; s has none"}
    assert [*report.rows] == [RESTORED]


def test_sizes_that_do_not_belong_together(draw):
    with pytest.raises(ValueError, match=r"^s: restored is 20×24 and hr is 24×24$"):
        Sample("s", draw(24, 20, 0), draw(24, 24, 0))
    with pytest.raises(ValueError, match=r"^s: lr is 6×6, which doesn't scale to 20×24$"):
        Sample("s", draw(24, 20, 0), lr=draw(6, 6, 0))


def test_empty_set():
    with pytest.raises(ValueError, match="no pictures to evaluate"):
        Evaluator(metrics=["psnr"]).run([])


def test_one_sample_at_a_time(draw):
    """Memory is flat in the number of pictures: no sample outlives its turn."""
    alive: list[weakref.ref] = []

    def stream():
        for i in range(20):
            sample = Sample(str(i), draw(24, 24, 0), draw(24, 24, 1), draw(6, 6, 0))
            alive.append(weakref.ref(sample))
            yield sample
            del sample
            assert sum(ref() is not None for ref in alive) <= 2

    report = Evaluator(metrics=["psnr"]).run(stream(), 20)
    assert len(report.stems) == 20


def test_progress_goes_to_standard_error(samples, capfd):
    Evaluator(metrics=["psnr"]).run(samples, 3, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "3/3" in captured.err
    Evaluator(metrics=["psnr"]).run(samples, 3)
    assert capfd.readouterr().err == ""


def test_fid_of_the_set(samples, monkeypatch):
    """With features that anybody can compute: the means of the channels."""
    monkeypatch.setattr(
        evaluation.frechet, "load_features", lambda *_: lambda image: image.mean((0, 2, 3)).double().numpy()
    )
    report = Evaluator(metrics=["fid", "psnr"]).run(samples)
    assert report.rows[TRUTH].whole == {"fid": 0.0}
    assert report.rows[RESTORED].whole["fid"] > 0
    assert report.rows[BICUBIC].whole["fid"] > 0
    assert means(report, report.rows[RESTORED])["fid"] == report.rows[RESTORED].whole["fid"]
    single = Evaluator(metrics=["fid"]).run(samples[:1])
    assert "at least two pictures" in single.unavailable["fid"]


def test_semantic_column_names_its_model():
    from deedsr.metrics.semantic import ClipModel

    evaluator = Evaluator(metrics=["clip"], clip=ClipModel("ViT-B-32", "/nowhere/mine.bin"))
    assert evaluator.metrics["clip"].label == "CLIP similarity (ViT-B-32 mine.bin)"
    assert METRICS["clip"].label == "CLIP similarity"
    assert "clip" in evaluator.unavailable
