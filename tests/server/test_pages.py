"""The pages: what they show, and that a hostile card, name or message can do nothing."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hubtool.core.ids import RepoId
from hubtool.records.environment import differences
from hubtool.records.reports import Reproduction
from hubtool.records.run import Result
from hubtool.server import curves, pages
from hubtool.server.embedded import EmbeddedHub
from hubtool.server.markdown import render
from hubtool.server.store import Store
from tests.package import made
from tests.server.clients import Http, commit_lines, put

HTML = {"Accept": "text/html"}
EVENTS = [
    {"global_step": step, "epoch": 0, "kind": "scalar", "split": split, "tag": tag, "value": value / (step + 1)}
    for step in range(50)
    for split, tag, value in (
        ("train", "loss", 2.0),
        ("val", "loss", 3.0),
        ("val", "top1", 0.5),
        ("train", "wall_s", 1),
    )
]
CARD = "---\nlicense: mit\nlibrary_name: timm\npipeline_tag: image-classification\n---\n# Digits\n[r](recipe.yaml)\n"

XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    '<svg><script>alert(1)</script></svg><svg onload="alert(1)">',
    '<iframe src="https://evil.example"></iframe><object data="x"></object><embed src="x">',
    '<math><mtext></table></math><img src=x onerror="alert(1)">',
    '<style>body{background:url(https://evil.example)}</style><p style="background:url(//evil.example)">',
    '<form action="https://evil.example"><input name=a><button>go</button></form>',
    '<meta http-equiv="refresh" content="0;url=https://evil.example"><base href="https://evil.example">',
    '<link rel="stylesheet" href="https://evil.example/x.css">',
    "![x](https://evil.example/pixel.png) ![y](//evil.example/pixel.png) ![z](http:evil.example)",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    '<a href="&#106;avascript:alert(1)">x</a> <a href=" java\nscript:alert(1)">x</a>',
    '<details open ontoggle="alert(1)"><summary>x</summary></details>',
    "<video src=x onerror=alert(1)><audio src=x onerror=alert(1)>",
    '<img src="x" srcset="https://evil.example/a 1x"><picture><source srcset="https://evil.example"></picture>',
]
FORBIDDEN = re.compile(
    r"<(script|iframe|object|embed|form|meta|base|link|style|svg|math|video|audio|source|input)|\son\w+=|javascript:|"
    r"data:text|srcset|style=|src=\"(https?:)?//|src=\"http",
    re.IGNORECASE,
)


@pytest.mark.parametrize("card", XSS)
def test_a_hostile_card_is_harmless(card: str) -> None:
    html = render(card, files_url="/lab/net/resolve/main/")
    assert not FORBIDDEN.search(" ".join(re.findall("<[^>]*>", html))), html


def test_links_and_pictures_of_a_card_lead_into_the_repository() -> None:
    html = render("![a](plots/a b.png) [r](./recipe.yaml) ![up](../../x.png) [w](https://w.example)", files_url="/n/")
    assert 'href="/n/recipe.yaml"' in html and "https://w.example" in html and "x.png" not in html
    assert 'src="/n/plots/a%20b.png"' in render("![a](<plots/a b.png>)", files_url="/n/")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    made.make_package(made.make_run(tmp_path / "run"), tmp_path / "package")
    return tmp_path / "package"


@pytest.fixture
def pushed(hub: EmbeddedHub, package: Path) -> Http:
    http = Http(hub.url)
    http("POST", "/api/repos/create", {"name": "digits", "organization": "lab"})
    files = {
        "README.md": CARD.encode(),
        "logs/metrics.jsonl": "\n".join(map(json.dumps, EVENTS)).encode(),
        "result.json": (package / "result.json").read_bytes(),
        "config.json": b'{"architecture": "test_resnet", "pretrained_cfg": {}}',
        "hubtool.json": b"{}",
        "recipe.yaml": b"schema: x",
    }
    lines = commit_lines(*(put(path, data) for path, data in files.items()), summary="<img src=x onerror=alert(1)>")
    assert http("POST", "/api/models/lab/digits/commit/main", lines).status == 200
    return http


def test_the_model_page_shows_card_curves_claims_and_how_to_use_it(
    pushed: Http, hub: EmbeddedHub, package: Path
) -> None:
    result = Result.read(package / "result.json")
    reply = pushed("GET", "/lab/digits", headers=HTML)
    text = reply.body.decode()
    assert "<h1>Digits</h1>" in text and "val/top1" in text and f"{result.claims[0].value:.4g}" in text
    assert f"<dt>parameters</dt><dd>{result.num_params:,}</dd>" in text and "nobody has published" in text
    assert text.count("<svg") == 2 and "wall_s" not in text and "loss: train from 2 to 0.04" in text
    assert f"HF_ENDPOINT={hub.url}" in text and "hf-hub:lab/digits" in text and "hubtool reproduce lab/digits" in text
    assert re.search(r'href="/lab/digits/resolve/[0-9a-f]{40}/recipe.yaml"', text)
    assert (
        "script" not in reply.headers["content-security-policy"]
        and "'none'" in reply.headers["content-security-policy"]
    )


def _attach(http: Http, *records: Reproduction, name: str = "") -> str:
    """Put records beside the package; the text of the page then."""
    files = [put(f"reproductions/{name or record.id}.json", record.to_json() + b"\n") for record in records]
    assert http("POST", "/api/models/lab/digits/commit/main", commit_lines(*files)).status == 200
    page = http("GET", "/lab/digits", headers=HTML).body.decode()
    return " ".join(page.split())


def test_the_model_page_counts_the_reproductions_that_count(pushed: Http, package: Path) -> None:
    exact = made.reproduction(package)
    elsewhere = made.NUMERICS.model_copy(update={"device": "cuda NVIDIA H100"})
    within = made.reproduction(
        package,
        state="within tolerance",
        weights_equal=False,
        measured_numerics=elsewhere,
        numerics_differ=differences(made.NUMERICS, elsewhere),
    )
    assert "Reproduced by 1 published attempt.<" in _attach(pushed, exact)
    text = _attach(pushed, within)
    assert "Reproduced by 2 published attempts.<" in text and "cuda NVIDIA H100" in text
    assert re.search(rf'href="/lab/digits/resolve/[0-9a-f]{{40}}/reproductions/{exact.id}.json"', text)
    other = exact.model_copy(update={"data_digest": "0" * 64})
    text = _attach(pushed, other)
    assert "Reproduced by 2 published attempts.<" in text and "not counted: it is about another result" in text
    boast = made.reproduction(package, weights_equal=False)
    text = _attach(pushed, boast)
    assert "Reproduced by 2 published attempts.<" in text and "not counted: it says exact" in text
    renamed = _attach(pushed, exact, name="0" * 16)
    assert "Reproduced by 2 published attempts.<" in renamed and "changed after it was written" in renamed
    failed = made.reproduction(package, state="not reproduced", findings=("<script>",))
    assert "Reproduced by 2 of 3 published attempts.<" in _attach(pushed, failed)


def _blob_path(root: Path, path: str) -> Path:
    """The loose git object of a file of the repository."""
    store = Store(root)
    git = store.repos.find("models", RepoId("lab/digits")).git
    entry = git.entry(git.resolve("main"), path)
    store.close()
    assert entry is not None
    return git.path / "objects" / entry.oid[:2] / entry.oid[2:]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("README.md", "<h1>Digits</h1>"),
        ("logs/metrics.jsonl", "<svg"),
        ("result.json", "nobody has published"),
        ("reproductions", "Reproduced by 1"),
    ],
)
@pytest.mark.parametrize("is_gone", [False, True], ids=["damaged", "gone"])
def test_what_could_not_be_read_is_shown_once_it_can_be(
    pushed: Http, package: Path, root: Path, path: str, shown: str, is_gone: bool
) -> None:
    record = made.reproduction(package)
    if path == "reproductions":
        path = f"reproductions/{record.id}.json"
        line = put(path, record.to_json() + b"\n")
        pushed("POST", "/api/models/lab/digits/commit/main", commit_lines(line))
    if path != "README.md":
        assert pushed("GET", "/api/models/lab/digits").status == 200  # the files are listed while all is well
    blob = _blob_path(root, path)
    good, mode = blob.read_bytes(), blob.stat().st_mode
    blob.unlink()
    if not is_gone:
        blob.write_bytes(good[:-20])  # the size that the listing asks for can still be read
    text = pushed("GET", "/lab/digits", headers=HTML).body.decode()
    assert shown not in text and (is_gone or "export HF_ENDPOINT" in text), "the rest of the page is shown"
    blob.unlink(missing_ok=True)
    blob.write_bytes(good)
    blob.chmod(mode)
    for _ in range(2):
        assert shown in " ".join(pushed("GET", "/lab/digits", headers=HTML).body.decode().split())


def test_a_page_is_read_once_a_commit(pushed: Http, package: Path, root: Path) -> None:
    """What a commit holds cannot change: the second view needs none of its files."""
    _attach(pushed, made.reproduction(package))
    before = pushed("GET", "/lab/digits", headers=HTML).body
    for path in ("logs/metrics.jsonl", "result.json"):
        _blob_path(root, path).unlink()
    assert pushed("GET", "/lab/digits", headers=HTML).body == before
    assert "Reproduced by 2" not in before.decode()
    put_again = commit_lines(put("logs/metrics.jsonl", b""), put("result.json", (package / "result.json").read_bytes()))
    assert pushed("POST", "/api/models/lab/digits/commit/main", put_again).status == 200
    assert "<svg" not in pushed("GET", "/lab/digits", headers=HTML).body.decode(), "another commit is read anew"


def test_what_is_no_record_is_not_shown(pushed: Http) -> None:
    for path, data in (("reproductions/0000000000000000.json", b"{"), ("reproductions/x.json", b"{}")):
        pushed("POST", "/api/models/lab/digits/commit/main", commit_lines(put(path, data)))
    assert "nobody has published" in pushed("GET", "/lab/digits", headers=HTML).body.decode()
    pushed("POST", "/api/models/lab/digits/commit/main", commit_lines(put("result.json", b'{"claims": "<b>"}')))
    text = pushed("GET", "/lab/digits", headers=HTML).body.decode()
    assert "<h1>Digits</h1>" in text and "Claims" not in text


def test_the_list_searches_and_pages(pushed: Http) -> None:
    for i in range(32):
        pushed("POST", "/api/repos/create", {"name": f"n{i}", "organization": "lab"})
    first = pushed("GET", "/", headers=HTML).body.decode()
    assert "33 models" in first and first.count("<article") == 30 and 'href="?search=&amp;start=30"' in first
    assert pushed("GET", "/?search=&start=30").body.decode().count("<article") == 3
    found = pushed("GET", "/?search=DIGI%22%3E%3Cb%3E").body.decode()
    assert "0 models" in found and "<b>" not in found
    assert "lab/digits" in pushed("GET", "/?search=DIGI").body.decode()


def test_files_and_history(pushed: Http) -> None:
    text = pushed("GET", "/lab/digits/tree/main", headers=HTML).body.decode()
    assert "logs/" in text and "recipe.yaml" in text and "initial commit" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text, "a commit message is text"
    assert "metrics.jsonl" in pushed("GET", "/lab/digits/tree/main/logs").body.decode()
    sha = pushed("GET", "/api/models/lab/digits").json["sha"]
    commit = pushed("GET", f"/lab/digits/commit/{sha}")
    assert commit.status == 302 and commit.headers["location"] == f"/lab/digits/tree/{sha}"


def test_the_stylesheet_is_asked_for_again_and_sent_once(pushed: Http) -> None:
    first = pushed("GET", "/static/hub.css")
    assert first.status == 200 and first.headers["cache-control"] == "no-cache"
    again = pushed("GET", "/static/hub.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_missing_page_is_a_page(pushed: Http) -> None:
    for path in ("/lab/nothing", "/lab/digits/tree/nowhere", "/a/b/c/d/e", "/lab/digits/tree/main/none"):
        reply = pushed("GET", path, headers=HTML)
        assert reply.status == 404 and b"<h1>404</h1>" in reply.body, path
        assert pushed("GET", path).json["code"].startswith("E-HUB"), "and JSON for a program"


def test_a_served_file_is_data_and_no_page(pushed: Http) -> None:
    page = b"<html><script>alert(document.domain)</script></html>"
    pushed("POST", "/api/models/lab/digits/commit/main", commit_lines(put("x.html", page), put("x.svg", page)))
    for name in ("x.html", "x.svg"):
        headers = pushed("GET", f"/lab/digits/resolve/main/{name}", headers=HTML).headers
        assert headers["content-type"] == "application/octet-stream" and headers["x-content-type-options"] == "nosniff"
        assert (
            headers["content-disposition"].startswith("attachment") and "sandbox" in headers["content-security-policy"]
        )


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"global_step":1e999,"value":1,"tag":"a"}',
        b'{"global_step":"x","value":{}}',
        b"\xff" * 99,
        b"[" * 9999,
    ],
)
def test_a_damaged_log_draws_nothing(line: bytes) -> None:
    assert curves.draw(line + b"\n" + line) == []


def test_a_hostile_tag_is_text() -> None:
    lines = b"\n".join(
        json.dumps({"global_step": i, "value": i, "tag": "</svg><script>", "split": "<x>"}).encode() for i in (1, 2)
    )
    (plot,) = curves.draw(lines)
    assert "<script>" not in plot.svg and "<x>" not in plot.svg


class _Violating(http.server.BaseHTTPRequestHandler):
    """A page with the hub's policy that it breaks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Security-Policy", pages.CSP)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>x</title><script>document.title = 'pwned'</script>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _browse(url: str, place: Path) -> tuple[str, str, str]:
    """(the DOM, what the console says, what went over the network) of a headless browser that opens ``url``."""
    log = place / "net.json"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place / 'profile'}"]
    command += [f"--log-net-log={log}", "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, done.stderr, log.read_text().replace("\\/", "/")


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_runs_and_loads_nothing(pushed: Http, hub: EmbeddedHub, tmp_path: Path) -> None:
    """The corpus in one card, in names of files, tags and messages: nothing for the policy to stop, no request leaves."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Violating) as control:
        threading.Thread(target=control.serve_forever, daemon=True).start()
        _, said, _ = _browse(f"http://127.0.0.1:{control.server_port}/", tmp_path)
        control.shutdown()
    assert "Content Security Policy" in said, "the browser does tell of a violation"

    hostile = [x.replace("alert(1)", "document.title='pwned'") for x in XSS]
    head = "---\n" + json.dumps({"license": hostile[0], "tags": hostile[:6], "library_name": hostile[1]}) + "\n---\n"
    files = [put("README.md", (head + "\n\n".join(hostile)).encode()), put("#onerror=alert(1) 'x'.txt", b"x")]
    for message in hostile:
        lines = commit_lines(*files, put("n.txt", message.encode()), summary=message)
        assert pushed("POST", "/api/models/lab/digits/commit/main", lines).status == 200
    for path in ("/", "/lab/digits", "/lab/digits/tree/main", "/lab/none%3Cscript%3E"):
        dom, said, net = _browse(f"{hub.url}{path}", tmp_path)
        assert "hubtool hub" in dom and "pwned'</title>" not in dom and "<title>pwned" not in dom, path
        assert "evil.example" not in net, path
        assert "Content Security Policy" not in said, path


def test_a_hub_starts_without_what_only_pages_need() -> None:
    code = "import sys, hubtool.server.run; print([m for m in ('pydantic', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
