"""The unmodified clients against the hub, as their users run them."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.server.embedded import EmbeddedHub
from hubtool.server.run import listen, make_server, site_of
from tests.server.clients import Client, Http


def free_port() -> int:
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(root: Path, port: int) -> Iterator[str]:
    """A hub on a fixed port, in a thread."""
    sock = listen("127.0.0.1", port)
    server = make_server(root, site_of("127.0.0.1", port, public_url=None, is_open=True))
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    sock.close()


UPLOAD = """
    import hashlib, os, pathlib
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
    api = HfApi()
    api.create_repo("lab/net", private=True)
    api.create_repo("lab/net", exist_ok=True)
    source = pathlib.Path("source"); (source / "sub").mkdir(parents=True)
    (source / "README.md").write_text("---\\nlicense: mit\\ntags: [digits]\\n---\\n# A model\\n")
    (source / "sub/notes.txt").write_text("words")
    (source / "empty.txt").write_bytes(b"")
    (source / "model.safetensors").write_bytes(os.urandom(3_000_000) * 3)
    (source / "zeros.bin").write_bytes(bytes(6_000_000))
    first = api.upload_folder(repo_id="lab/net", folder_path=source).oid
    assert api.upload_folder(repo_id="lab/net", folder_path=source).oid == first, "a second push changes nothing"
    info = api.model_info("LAB/Net", files_metadata=True)
    assert info.id == "lab/net" and info.sha == first and info.private and "license:mit" in info.tags
    large = {s.rfilename: s.lfs.sha256 for s in info.siblings if s.lfs}
    assert large["model.safetensors"] == hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    here = pathlib.Path(snapshot_download("lab/net", local_dir="there"))
    for path in source.rglob("*"):
        assert path.is_dir() or (here / path.relative_to(source)).read_bytes() == path.read_bytes(), path
    second = api.create_commit("lab/net", parent_commit=first, commit_message="two files, one gone", operations=[
        CommitOperationAdd("weights/a.bin", os.urandom(100_000)), CommitOperationAdd("b.txt", b"b"),
        CommitOperationDelete("sub/")])
    assert second.oid == api.model_info("lab/net").sha and second.repo_url.repo_id == "lab/net"
    files = set(api.list_repo_files("lab/net"))
    assert {"weights/a.bin", "b.txt"} < files and not any(f.startswith("sub/") for f in files)
    tree = {e.path: e for e in api.list_repo_tree("lab/net", recursive=True, expand=True)}
    assert tree["b.txt"].last_commit.title == "two files, one gone" and tree["weights"].last_commit.oid == second.oid
    assert [p.path for p in api.get_paths_info("lab/net", ["b.txt", "nowhere", "weights"])] == ["b.txt", "weights"]
    assert [m.id for m in api.list_models(search="net", filter="digits")] == ["lab/net"]
    print("ok")
"""


@pytest.fixture(params=["xet", pytest.param("xet switched off", marks=pytest.mark.prove), "xet not installed"])
def any_client(request: pytest.FixtureRequest, client: Client) -> Client:
    """The client library with hf_xet, with it switched off, and where it is not installed."""
    if request.param == "xet switched off":
        client.env["HF_HUB_DISABLE_XET"] = "1"
    elif request.param == "xet not installed":
        client.without_xet()
        found = client.python(
            "import importlib.util as u; print(u.find_spec('hf_xet'), u.find_spec('huggingface_hub').name)"
        )
        assert found.split() == ["None", "huggingface_hub"]
    return client


def test_huggingface_hub_pushes_and_pulls(any_client: Client) -> None:
    assert any_client.python(UPLOAD).strip() == "ok"


def test_timm_transformers_and_mixin_push_and_load(any_client: Client) -> None:
    script = """
        import timm, torch
        from timm.models.hub import push_to_hf_hub
        from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification
        from huggingface_hub import PyTorchModelHubMixin, ModelCard

        x = torch.randn(2, 3, 64, 64)
        model = timm.create_model("test_resnet", num_classes=4).eval()
        push_to_hf_hub(model, "lab/timm", model_config={"label_names": list("abcd")})
        again = timm.create_model("hf-hub:lab/timm", pretrained=True).eval()
        assert torch.equal(model(x), again(x))

        tiny = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=64, patch_size=16, num_labels=3)
        vit = ViTForImageClassification(tiny).eval()
        vit.push_to_hub("lab/vit")
        again = AutoModelForImageClassification.from_pretrained("lab/vit").eval()
        assert torch.equal(vit(x).logits, again(x).logits)

        class Small(torch.nn.Module, PyTorchModelHubMixin):
            def __init__(self, width: int = 4):
                super().__init__()
                self.layer = torch.nn.Linear(width, width)

        small = Small(5)
        small.push_to_hub("lab/mixin")
        assert torch.equal(small.layer.weight, Small.from_pretrained("lab/mixin").layer.weight)

        card = ModelCard("---\\nlicense: mit\\nlibrary_name: timm\\n---\\n# Hello")
        card.push_to_hub("lab/timm")
        assert ModelCard.load("lab/timm").data.license == "mit"
        print("ok")
    """
    assert any_client.python(script).strip().endswith("ok")


def test_hf_command(any_client: Client) -> None:
    """`hf` as people type it: login, create, upload, download, list, branch and tag."""
    client = any_client
    source = client.home / "net"
    source.mkdir()
    (source / "README.md").write_text("---\nlicense: mit\n---\n# net\n")
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    client.hf("auth", "login", "--token", "hf_anything")
    assert "local" in client.hf("auth", "whoami")
    client.hf("repos", "create", "lab/net", "--private")
    client.hf("upload", "lab/net", str(source))
    client.hf("download", "lab/net", "--local-dir", str(client.home / "there"))
    assert (client.home / "there/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert "lab/net" in client.hf("models", "ls", "--quiet") and "lab/net" in client.hf("models", "info", "lab/net")
    client.hf("repos", "branch", "create", "lab/net", "dev")
    client.hf("repos", "tag", "create", "lab/net", "v1")
    assert "v1" in client.hf("repos", "tag", "list", "lab/net")
    client.hf("repos", "tag", "delete", "lab/net", "v1", "--yes")
    client.hf("repos", "branch", "delete", "lab/net", "dev")
    client.hf("repos", "move", "lab/net", "lab/moved")
    client.hf("repos", "settings", "lab/moved", "--public")
    client.hf("repos", "delete-files", "lab/moved", "model.safetensors")
    client.hf("repos", "delete", "lab/moved", "--yes")
    assert "lab/moved" not in client.hf("models", "ls", "--quiet")


def test_a_repository_that_moved_is_found_by_its_old_name(client: Client, hub: EmbeddedHub) -> None:
    client.python("""
        import os, pathlib
        from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
        api, weights = HfApi(), os.urandom(2_000_000)
        api.create_repo("lab/old")
        api.upload_file(repo_id="lab/old", path_in_repo="w.bin", path_or_fileobj=weights)
        api.move_repo("lab/old", "lab/new")
        assert api.model_info("lab/old").id == "lab/new"
        assert pathlib.Path(hf_hub_download("lab/old", "w.bin")).read_bytes() == weights
        there = pathlib.Path(snapshot_download("lab/old", local_dir="there"))
        assert (there / "w.bin").read_bytes() == weights
        api.upload_file(repo_id="lab/old", path_in_repo="more.bin", path_or_fileobj=os.urandom(2_000_000))
        api.upload_file(repo_id="lab/old", path_in_repo="text.txt", path_or_fileobj=b"words" * 400_000)
        assert {"more.bin", "text.txt"} < set(api.list_repo_files("lab/new"))
    """)
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    client.run(["git", "lfs", "install", "--skip-repo"])
    client.run(["git", "clone", "-q", f"{hub.url}/lab/old", "clone"])
    clone = client.home / "clone"
    assert (clone / "w.bin").stat().st_size == 2_000_000
    (clone / "x.bin").write_bytes(bytes(range(256)) * 999)
    client.run(["git", "add", "."], cwd=clone)
    client.run(["git", "commit", "-qm", "more"], cwd=clone, **identity)
    client.run(["git", "push", "-q", "origin", "main"], cwd=clone)
    assert Http(hub.url)("GET", "/lab/new/resolve/main/x.bin").body == bytes(range(256)) * 999


def test_datasets_load_from_a_dataset_repository(any_client: Client) -> None:
    script = """
        from datasets import Dataset, load_dataset
        from huggingface_hub import HfApi
        api = HfApi()
        api.create_repo("lab/numbers", repo_type="dataset")
        api.upload_file(repo_id="lab/numbers", repo_type="dataset", path_in_repo="train.csv",
            path_or_fileobj=b"x,y\\n1,2\\n3,4\\n")
        data = load_dataset("lab/numbers", split="train")
        assert data["y"] == [2, 4] or list(data["y"]) == [2, 4]
        Dataset.from_dict({"a": list(range(10))}).push_to_hub("lab/pushed")
        assert list(load_dataset("lab/pushed", split="train")["a"]) == list(range(10))
        print("ok")
    """
    assert any_client.python(script).strip().endswith("ok")


def test_an_emptied_hub_does_not_trap_a_clients_cache(client: Client, root: Path) -> None:
    """hf_xet remembers for weeks what it sent to an address; so an emptied store has another address."""
    upload = """
        import pathlib, random
        from huggingface_hub import HfApi
        data = random.Random(1).randbytes(3_000_000)
        HfApi().create_repo("lab/net", exist_ok=True)
        HfApi().upload_file(repo_id="lab/net", path_in_repo="w.bin", path_or_fileobj=data)
    """
    port = free_port()
    for _ in range(2):
        with serving(root, port) as url:
            fresh = Client(url, client.home)
            fresh.python(upload)
            assert Http(url)("GET", "/lab/net/resolve/main/w.bin").body == random.Random(1).randbytes(3_000_000)
        shutil.rmtree(root)


def test_large_files_stay_out_of_memory_and_come_back_in_ranges(http_: Http, client: Client) -> None:
    client.python("""
        import io, os
        from huggingface_hub import HfApi, get_safetensors_metadata
        import torch
        from safetensors.torch import save_file
        save_file({"a": torch.zeros(1000, 10), "b": torch.ones(7, dtype=torch.bfloat16)}, "model.safetensors")
        HfApi().create_repo("lab/net")
        HfApi().upload_file(repo_id="lab/net", path_in_repo="model.safetensors", path_or_fileobj="model.safetensors")
        meta = get_safetensors_metadata("lab/net")
        assert meta.parameter_count == {"F32": 10000, "BF16": 7}, meta.parameter_count
    """)
    assert http_("GET", "/api/models/lab/net").json["safetensors"] == {
        "parameters": {"F32": 10000, "BF16": 7},
        "total": 10007,
    }
