"""Under strace: whatever a hostile hub says, the client writes below its own roots alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.hub.lying_hub import Lies, LyingHub

_CLIENT = """
import sys
from pathlib import Path
from hubtool.core.errors import HubtoolError
from hubtool.hub.client import Hub
from hubtool.hub.fetch import fetch_repo
hub = Hub(endpoint=sys.argv[1], name=sys.argv[1], cache_dir=Path(sys.argv[2]), max_attempts=1)
try:
    fetch_repo(hub, "timm/tiny.test", None, wanted=("config.json", "model.safetensors"))
    print("fetched")
except HubtoolError as error:
    print(error.code)
"""
_CALLS = (
    "openat,open,creat,rename,renameat,renameat2,symlink,symlinkat,link,linkat,mkdir,mkdirat,unlink,unlinkat,truncate"
)
_WRITES = re.compile(r"O_(?:CREAT|WRONLY|RDWR|TRUNC)|^\d+\s+(?!open|\s)")
_PATH = re.compile(r'"(/[^"]*)"')
_HARMLESS = ("/dev/", "/proc/")

_EVIL = f"{tempfile.gettempdir()}/hubtool-evil"
LIES = {
    "none": Lies(),
    "ETag up": Lies(head=lambda headers: headers.update({"ETag": f'"../../../../../../..{_EVIL}"'})),
    "ETag absolute": Lies(head=lambda headers: headers.update({"ETag": f'"{_EVIL}"'})),
    "commit up": Lies(head=lambda headers: headers.update({"X-Repo-Commit": f"../../../../../..{_EVIL}"})),
    "listing up": Lies(tree=lambda tree: tree[0].update({"path": f"../../../../..{_EVIL}"})),
    "commit on a 404": Lies(
        only_get=(404, {}),
        head=lambda headers: headers.update({"X-Repo-Commit": _EVIL, "X-Error-Code": "EntryNotFound"}),
    ),
    "file URL": Lies(only_get=(302, {"Location": "file:///etc/passwd"})),
}


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("lie", LIES)
def test_no_path_outside_the_roots(tmp_path: Path, lie: str) -> None:
    roots = [tmp_path / "cache", tmp_path / "home"]
    for root in roots:
        root.mkdir()
    log = tmp_path / "strace.log"
    environ = {
        "HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "home" / "hf"),
        "HUBTOOL_HOME": str(tmp_path / "home" / "hubtool"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/bin:/bin",
    }
    with LyingHub({"config.json": b"{}", "model.safetensors": b"x" * 1000}, lies=LIES[lie]) as liar:
        command = ["strace", "-f", "-qq", "-e", f"trace={_CALLS}", "-o", str(log), sys.executable, "-c", _CLIENT]
        done = subprocess.run(
            [*command, liar.url, str(roots[0])], capture_output=True, text=True, env=environ, timeout=120, check=False
        )
    if "ptrace" in done.stderr.lower() and "permitted" in done.stderr.lower():
        pytest.skip("strace is not allowed here")
    assert done.stdout.startswith("fetched" if lie == "none" else "E-"), done.stderr
    written = [line for line in log.read_text(errors="replace").splitlines() if _WRITES.search(line)]
    paths = {path for line in written for path in _PATH.findall(line)}
    assert any(path.startswith(str(tmp_path)) for path in paths) or lie != "none"
    allowed = (*map(str, roots), *_HARMLESS)
    assert [path for path in paths if not path.startswith(allowed)] == []
    assert not [path for path in paths if "evil" in path]
