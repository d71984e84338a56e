"""The unmodified clients against the hub, as their users run them."""

from __future__ import annotations

import pytest

from tests.server.clients import Client

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


@pytest.mark.parametrize("without_xet", [False, True], ids=["xet", "lfs"])
def test_huggingface_hub_pushes_and_pulls(client: Client, without_xet: bool) -> None:
    env = {"HF_HUB_DISABLE_XET": "1"} if without_xet else {}
    assert client.python(UPLOAD, **env).strip() == "ok"


def test_timm_transformers_and_mixin_push_and_load(client: Client) -> None:
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
    assert client.python(script).strip().endswith("ok")
