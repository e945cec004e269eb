from __future__ import annotations

import re

import pytest

from shared_moe_conformer.web import read_page, security_policy

PAGES = ["recognise.html", "report.html", "zoo.html"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_nothing_else(name: str) -> None:
    page = read_page(name)
    assert "--accent:" in page, "the shared style is in it"
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert 'lang="en"' in page and "<title>" in page


@pytest.mark.parametrize("name", PAGES)
def test_nothing_in_a_page_needs_more_than_its_policy_allows(name: str) -> None:
    page = read_page(name)
    assert not re.findall(r"\s(?:style|on[a-z]+)=", page), "inline attributes are not covered by hashes"
    assert ".innerHTML" not in page


def test_only_the_pages_own_style_and_scripts_may_run() -> None:
    policy = security_policy("<style>a</style><script>b</script>", connect_src="'self'")
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='",
        "script-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='",
        "base-uri 'none'",
        "form-action 'none'",
        "connect-src 'self'",
    ]
