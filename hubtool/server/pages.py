"""Three pages for people, read-only and without script: the list, one repository, its files and history."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.responses import RedirectResponse, Response

from hubtool.core.digests import sha256_bytes
from hubtool.server import curves, markdown
from hubtool.server.access import Rule
from hubtool.server.answers import is_unchanged
from hubtool.server.api_repos import visible
from hubtool.server.call import Call, Route
from hubtool.server.claims import Claims, read_claims
from hubtool.server.refusals import Refusal
from hubtool.server.repos import MAIN, Repo
from hubtool.server.summaries import CommitFiles, Summary, summarize

_HERE = Path(__file__).parent
_PAGE_SIZE = 30
CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CSP,
    "Cache-Control": "private, no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def health(call: Call) -> Any:
    """Whether the store can be read: an answer at all, and its accounts."""
    call.store.accounts.users()
    return {"status": "ok"}


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": _size, "day": _day}
    return environment


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _page(template: str, status_code: int = 200, **values: Any) -> Response:
    html = _templates().get_template(template).render(**values)
    # surrogates stand for bytes of file names that are no UTF-8
    return Response(
        html.encode("utf-8", "replace"), status_code, headers=_HEADERS, media_type="text/html; charset=utf-8"
    )


def error_page(refusal: Refusal) -> Response:
    response = _page("error.html", refusal.status, status=refusal.status, message=refusal.message)
    if refusal.hub_code:
        response.headers["X-Error-Code"] = refusal.hub_code
    return response


def stylesheet(call: Call) -> Response:
    """Asked for again with each page, so that it fits the pages of the hubtool that serves them."""
    data = (_HERE / "templates" / "hub.css").read_bytes()
    headers = {"ETag": f'"{sha256_bytes(data)}"', "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if is_unchanged(call.request, headers["ETag"]):
        return Response(None, 304, headers=headers)
    return Response(data, headers=headers, media_type="text/css")


def listing(call: Call) -> Response:
    found = sorted(visible(call), key=lambda item: -item[1].commit.time)
    start = call.number("start", 0, 1 << 30)
    rows = [_row(call, repo, summary) for repo, summary in found[start : start + _PAGE_SIZE]]
    following = ""
    if start + _PAGE_SIZE < len(found):
        following = "?" + urlencode({"search": call.query("search"), "start": start + _PAGE_SIZE})
    return _page(
        "list.html",
        kind=call.kind,
        search=call.query("search"),
        author=call.query("author"),
        rows=rows,
        num_found=len(found),
        following=following,
        base_url=call.base_url,
    )


def _row(call: Call, repo: Repo, summary: Summary) -> dict[str, Any]:
    settings = call.access.settings(repo)
    return {
        "id": repo.id,
        "url": _url(repo),
        "tags": [tag for tag in summary.tags if ":" not in tag][:6],
        "time": summary.commit.time,
        "size": summary.size_bytes,
        "downloads": settings.downloads,
        "is_private": settings.visibility == "private",
        "is_gated": settings.gated != "off",
    }


def _url(repo: Repo) -> str:
    return f"/{repo.id}" if repo.kind == "models" else f"/{repo.kind}/{repo.id}"


def repository(call: Call) -> Response:
    """The card, what it claims and shows, and how to use it. A gated repository shows a stranger its card only."""
    repo = call.repo
    sha = repo.git.resolve(MAIN)
    summary = summarize(call.store, repo, sha)
    is_reader = call.caller.name is not None or call.access.settings(repo).gated == "off"
    names = {entry.path for entry in summary.files}
    plots, claimed = _evidence(call, summary) if is_reader else ([], Claims())
    return _page(
        "repo.html",
        row=_row(call, repo, summary),
        kind=repo.kind,
        sha=sha,
        card=markdown.render(summary.card.body, files_url=f"{_url(repo)}/resolve/{sha}/"),
        has_card="README.md" in names,
        problem=summary.card.problem,
        facts=_facts(summary, claimed),
        claimed=claimed,
        files_url=f"{_url(repo)}/resolve/{sha}/",
        plots=plots,
        usage=_usage(call, repo, summary, names),
        num_files=len(names),
    )


_EVIDENCE: OrderedDict[tuple[str, str], tuple[list[curves.Plot], Claims]] = OrderedDict()
_EVIDENCE_LOCK = threading.Lock()
_MAX_REMEMBERED_PAGES = 128


def _evidence(call: Call, summary: Summary) -> tuple[list[curves.Plot], Claims]:
    """Curves and claims of a commit, remembered by it: up to some fifty files are read for a page."""
    key = (str(call.repo.path), summary.commit.sha)
    with _EVIDENCE_LOCK:
        if key in _EVIDENCE:
            _EVIDENCE.move_to_end(key)
            return _EVIDENCE[key]
    files = CommitFiles(call.store, call.repo, summary.entries)
    plots = curves.draw(files.read("logs/metrics.jsonl", curves.MAX_LOG_BYTES) or b"")
    claimed = read_claims([entry.path for entry in summary.files], lambda path, limit: files.read(path, limit) or b"")
    if files.is_whole:
        with _EVIDENCE_LOCK:
            _EVIDENCE[key] = plots, claimed
            while len(_EVIDENCE) > _MAX_REMEMBERED_PAGES:
                _EVIDENCE.popitem(last=False)
    return plots, claimed


def _facts(summary: Summary, claimed: Claims) -> list[tuple[str, str]]:
    """Parameters as the result counts them; without one, every number in the weights, buffers too."""
    data = summary.card.data
    facts = [("licence", data.get("license")), ("library", summary.library), ("task", summary.pipeline)]
    facts += [("base model", data.get("base_model"))]
    if claimed.num_params is not None:
        facts.append(("parameters", f"{claimed.num_params:,}"))
    elif summary.parameters:
        facts.append(("numbers in the weights", f"{sum(summary.parameters.values()):,}"))
    return [(name, value) for name, value in facts if isinstance(value, str) and value]


def _usage(call: Call, repo: Repo, summary: Summary, names: set[str]) -> list[tuple[str, str]]:
    """(tool, the lines to type)."""
    usage = [("this hub", f"export HF_ENDPOINT={call.base_url}")]
    if repo.kind == "datasets":
        usage.append(("datasets", f'from datasets import load_dataset\ndata = load_dataset("{repo.id}")'))
    elif "config.json" in names:
        timm = f'import timm\nmodel = timm.create_model("hf-hub:{repo.id}", pretrained=True)'
        transformers = (
            "from transformers import AutoModelForImageClassification\n"
            f'model = AutoModelForImageClassification.from_pretrained("{repo.id}")'
        )
        if summary.library == "timm":
            usage.append(("timm", timm))
        if summary.library in ("timm", "transformers"):
            usage.append(("transformers", transformers))
    if "hubtool.json" in names:
        usage.append(("hubtool", f"hubtool verify {repo.id}\nhubtool reproduce {repo.id} --data DIR"))
    kind = " --repo-type dataset" if repo.kind == "datasets" else ""
    usage.append(("files", f"hf download {repo.id}{kind}"))
    usage.append(("git", f"git clone {call.repo_url(repo)}"))
    return usage


def files(call: Call) -> Response:
    repo, git = call.repo, call.repo.git
    sha = git.resolve(call.revision)
    path = call.path if call.params.get("path") else ""
    entries = git.list_tree(sha, path, is_recursive=False)
    page = call.number("p", 0, 10_000)
    log = git.log(sha, skip=page * _PAGE_SIZE, count=_PAGE_SIZE + 1)
    up = path.rpartition("/")[0]
    return _page(
        "files.html",
        row={"id": repo.id, "url": _url(repo)},
        kind=repo.kind,
        revision=call.revision,
        rev_url=quote(call.revision, safe=""),
        path=path,
        up=f"/{quote(up)}" if up else "",
        folders=[(e.path.rpartition("/")[2], quote(e.path, errors="replace")) for e in entries if e.kind == "tree"],
        files=[
            (e.path.rpartition("/")[2], quote(e.path, errors="replace"), e.true_size_bytes, e.pointer is not None)
            for e in entries
            if e.kind == "blob"
        ],
        commits=log[:_PAGE_SIZE],
        following=page + 1 if len(log) > _PAGE_SIZE else None,
    )


def commit(call: Call) -> Response:
    """The address a push prints."""
    sha = call.repo.git.resolve(call.revision)
    return RedirectResponse(f"{_url(call.repo)}/tree/{sha}", 302)


_REPO = "{prefix}/{owner}/{name}"
_GET = ("GET", "HEAD")
ROUTES = (
    Route(methods=_GET, path="/healthz", rule=Rule.ANYONE, endpoint=health),
    Route(methods=_GET, path="/static/hub.css", rule=Rule.ANYONE, endpoint=stylesheet),
    Route(methods=_GET, path="/", rule=Rule.ANYONE, endpoint=listing),
    Route(methods=_GET, path="/datasets", rule=Rule.ANYONE, endpoint=listing),
    Route(methods=_GET, path=_REPO, rule=Rule.SEE, endpoint=repository),
    Route(methods=_GET, path=f"{_REPO}/tree/{{rev}}", rule=Rule.READ, endpoint=files),
    Route(methods=_GET, path=f"{_REPO}/tree/{{rev}}/{{path:path}}", rule=Rule.READ, endpoint=files),
    Route(methods=_GET, path=f"{_REPO}/commit/{{rev}}", rule=Rule.READ, endpoint=commit),
)
