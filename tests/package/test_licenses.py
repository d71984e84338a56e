"""Which licence a packed model may have."""

from __future__ import annotations

import pytest

from hubtool.core.errors import UsageError
from hubtool.package import licenses


@pytest.mark.parametrize(
    ("spelling", "hub_id"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
        ("  MIT ", "mit"),
    ],
)
def test_spdx_and_other_spellings_are_the_hubs_ids(spelling: str, hub_id: str) -> None:
    assert licenses.parse(spelling) == licenses.License(id=hub_id)


@pytest.mark.parametrize("spelling", [None, "", "unknown", "my own", "apache", "other:../x"])
def test_what_names_no_licence(spelling: str | None) -> None:
    parsed = licenses.parse(spelling)
    assert parsed is None or spelling == "apache"


def test_the_backbones_licence_is_carried_over() -> None:
    assert licenses.of_result("apache-2.0", None).id == "apache-2.0"
    assert licenses.of_result("dinov3-license", None) == licenses.License(id="other", name="dinov3-license")


@pytest.mark.parametrize("base", [None, "unknown", "other", "nobody-knows-1.0"])
def test_an_unknown_licence_names_the_key_to_fill(base: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        licenses.of_result(base, None)
    assert caught.value.code == "E-LICENSE-UNKNOWN"
    assert caught.value.exit_code == 2
    assert "run.card.license" in caught.value.line()
    wanted = "other" if base == "other" else "mit"
    assert licenses.of_result(base, wanted).id == wanted


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("cc-by-nc-4.0", "apache-2.0"),
        ("gpl-3.0", "mit"),
        ("cc-by-sa-4.0", "gpl-3.0"),
        ("apache-2.0", "cc0-1.0"),
        ("dinov3-license", "apache-2.0"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0"),
        ("gemma", "openrail"),
    ],
)
def test_a_looser_licence_than_the_backbones_is_refused(base: str, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        licenses.of_result(base, wanted)
    assert caught.value.code == "E-LICENSE-LOOSER"


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("mit", "apache-2.0"),
        ("apache-2.0", "gpl-3.0"),
        ("apache-2.0", "cc-by-nc-4.0"),
        ("lgpl-3.0", "gpl-3.0"),
        ("gemma", "gemma"),
    ],
)
def test_a_stricter_or_equal_one_is_taken(base: str, wanted: str) -> None:
    assert licenses.of_result(base, wanted).id == wanted


def test_no_derivatives_means_none() -> None:
    with pytest.raises(UsageError, match="allows no derived models"):
        licenses.of_result("cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0")


def test_a_misspelt_licence_is_met_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*apache-2.0"):
        licenses.of_result("mit", "apache2.0.0")


def test_every_licence_timm_names_is_understood() -> None:
    timm = pytest.importorskip("timm")
    names = {timm.models.get_pretrained_cfg(name).license for name in timm.list_pretrained()} - {None, "unknown"}
    assert {name for name in names if licenses.parse(name) is None} == set()
