"""A model card as HTML that can do nothing: no script, no style, no form, nothing loaded from elsewhere."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt

MAX_MARKDOWN_BYTES = 256 << 10
_TAGS = {
    *("a", "abbr", "b", "blockquote", "br", "code", "dd", "del", "details", "div", "dl", "dt", "em", "h1", "h2", "h3"),
    *("h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "ol", "p", "pre", "q", "s", "small", "span", "strong", "sub"),
    *("summary", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
_ATTRIBUTES = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title", "width", "height"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
    "ol": {"start"},
    "details": {"open"},
}
_MARKDOWN = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])


def render(text: str, *, files_url: str) -> str:
    """``text`` as safe HTML; relative links and pictures lead to ``files_url`` (it ends in ``/``)."""
    if len(text.encode("utf-8", "replace")) > MAX_MARKDOWN_BYTES:
        return "<p>This card is too long to be shown here; it is among the files.</p>"
    return nh3.clean(
        _MARKDOWN.render(text),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        attribute_filter=_filter(files_url),
        clean_content_tags={"script", "style", "iframe", "object", "template", "noscript", "svg", "math", "title"},
        link_rel="nofollow noopener noreferrer",
        strip_comments=True,
    )


def _filter(files_url: str) -> Callable[[str, str, str], str | None]:
    def keep(tag: str, name: str, value: str) -> str | None:
        if (tag, name) == ("img", "src"):
            return _inside(value, files_url)  # a picture from elsewhere would tell its server who reads this
        if (tag, name) == ("a", "href"):
            return value if _is_absolute(value) or value.startswith("#") else _inside(value, files_url)
        return value

    return keep


def _is_absolute(value: str) -> bool:
    try:
        return urlsplit(value).scheme in ("http", "https", "mailto")
    except ValueError:
        return False


def _inside(value: str, files_url: str) -> str | None:
    """The address of a file of the repository, or None when ``value`` leads elsewhere."""
    try:
        parts = urlsplit(value.strip())
    except ValueError:
        return None
    path = posixpath.normpath(unquote(parts.path).replace("\\", "/"))
    if parts.scheme or parts.netloc or not parts.path or path.startswith(("/", "..")) or path == ".":
        return None
    return files_url + quote(path)
