"""Planted secrets are found in every carrier; what only looks like one is not."""

from __future__ import annotations

import json
import secrets as stdlib_secrets
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from hubtool.core.errors import SecurityError
from hubtool.package import secrets

HEX40 = "0123456789abcdef0123456789abcdef01234567"
# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "hf": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "wandb env": f"WANDB_API_KEY={HEX40}",
    "wandb netrc": f"machine api.wandb.ai\n  login user\n  password {HEX40}",
    "wandb config": f'"wandb": {{"api_key": "{HEX40}"}}',
    "wandb v1": "wandb_v1_" + "Ab1_" * 12,
    "aws id": "AKIA" + "IOSFODNN7EXAMPL3",
    "aws secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKE",
    "pem": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "pkcs8": "-----BEGIN " + "PRIVATE KEY-----",
    "basic auth": "https://somebody:hunter22" + "@example.com/data.zip",
    "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "github fine": "github_pat_" + "11ABCDEFG0abcdefghijkl_" + "mnop",
    "gitlab": "glpat-" + "abcDEF123456ghiJKL78",
    "slack": "xoxb-" + "123456789012-abcdefABCDEF",
    "google": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "bearer": "Authorization: Bearer " + "abcdefghij0123456789xyz",
    "openai": "sk-" + "proj-" + "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTYifQ.abcdefghijklmnop1234",
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "carrier", ["readme", "json", "event file", "utf-16", "safetensors metadata", "file name", "svg"]
)
def test_every_secret_is_found_in_every_carrier(name: str, carrier: str, tmp_path: Path) -> None:
    secret = SECRETS[name]
    if carrier == "file name":
        if "/" in secret or "\n" in secret:
            pytest.skip("no file can have this name")
        (tmp_path / f"x {secret}").write_bytes(b"")
    elif carrier == "json":
        (tmp_path / "a.json").write_text(json.dumps({"note": ["x", secret]}) if '"' not in secret else f"{{{secret}}}")
    elif carrier == "event file":
        (tmp_path / "events.out.tfevents.1").write_bytes(b"\x12\0\0\0\0\0\0\0\xffcrc" + secret.encode() + b"\0\x01\xff")
    elif carrier == "utf-16":
        (tmp_path / "a.txt").write_bytes(f"one\n{secret}\n".encode("utf-16"))
    elif carrier == "safetensors metadata":
        data = safetensors.numpy.save(
            {"w": np.zeros(3, np.float32)}, metadata={"note": secret.replace("\n", " ").replace('"', " ")}
        )
        (tmp_path / "model.safetensors").write_bytes(data)
    else:
        (tmp_path / ("README.md" if carrier == "readme" else "a.svg")).write_text(f"first\nsecond {secret}\nthird\n")
    found = secrets.scan(tmp_path)
    assert found, secret
    if carrier == "readme":
        assert found[0].line in (2, 3, 4)
        assert secret not in str(found[0])


def test_every_token_a_hub_of_ours_hands_out_is_found() -> None:
    without_digit = "hf_SBHrlUJemWQdsgt-G_rwYIVo-g_bf_XyWSPoXycchRY"
    assert secrets.scan_text(without_digit, "x")
    assert not secrets.scan_text(f"hf_{'a_long_name_in_snake_case' * 3}", "x")
    for _ in range(300):
        text = f"token: hf_{stdlib_secrets.token_urlsafe(32)}\n"
        assert secrets.scan_text(text, "x"), text
        assert secrets.scan_bytes(b"\0A" + text.encode(), "x"), text


def test_the_report_gives_file_line_rule_and_four_characters(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text(f"a\nb\ntoken {SECRETS['hf']}\n")
    with pytest.raises(SecurityError) as caught:
        secrets.refuse(secrets.scan(tmp_path))
    assert caught.value.line().startswith("error[E-SEC-SECRET] Hugging Face token starting with 'hf_A' – notes.md:3")
    assert caught.value.exit_code == 6
    assert SECRETS["hf"][:6] not in caught.value.line()


@pytest.mark.parametrize(
    "text",
    [
        f"commit {HEX40}",
        f'"revision": "{HEX40}"',
        f"wandb 0.31.0\ncommit {HEX40}",
        "sha256 " + "ab" * 32,
        "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "export HF_TOKEN=hf_your_token_here",
        "https://huggingface.co/timm/resnet18.a1_in1k",
        "https://user:<password>@example.com",
        "git@github.com:owner/name.git",
        "ssh://git@github.com:22/owner/name",
        "hf_hub_download_and_something_else",
        "hf_a_function_whose_name_goes_on_and_on_for_more_than_forty_letters",
        "tokens: 12, key: value, password: none",
        "the API key is read from the environment",
        "sk-learn is a library; risk-free-and-something-that-goes-on-for-longer",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert secrets.scan_text(text, "x") == ()


def test_a_secret_across_the_border_of_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_MAX_WHOLE_BYTES", 10_000)
    for offset in (0, 9_980, 9_999, 10_000, 25_000):
        (tmp_path / "log.txt").write_bytes(b"\n" * offset + SECRETS["hf"].encode() + b"\n" * 8_000)
        (found,) = secrets.scan(tmp_path)
        assert found.line == offset + 1
