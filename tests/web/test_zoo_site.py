from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.release.card import model_card
from shared_moe_conformer.release.manifest import CARD_FILE, MANIFEST_FILE, TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import INDEX_FILE, add, read_index, write_sums
from shared_moe_conformer.web.zoo_site import (
    INDEX_PAGE,
    LONGEST_LABEL,
    MARKER,
    MAX_ROWS,
    card_html,
    told_apart,
    wer_tables,
    write_site,
)
from shared_moe_conformer.zoo import main
from tests.conftest import TINY, tiny_manifest

Save = Callable[..., Path]
HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\"' {name} <!-- rows -->"


class Tags(HTMLParser):
    """Counts elements, and gathers what an audio element or a link leads to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.sources += [str(value) for key, value in attrs if key == "src"]
        assert not [key for key, _ in attrs if key.startswith("on") or key == "style"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_site_is_one_page_and_the_recordings(saved: Save, tmp_path: Path) -> None:
    for name in ("one", "two"):
        add(saved(name))
    assert write_site(tmp_path / "zoo", tmp_path / "site") == 2
    files = sorted(str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*") if p.is_file())
    assert files == [INDEX_PAGE, "models/one/test.wav", "models/two/test.wav", MARKER]
    assert (tmp_path / "site/models/one/test.wav").read_bytes() == (tmp_path / "zoo/one/test.wav").read_bytes()
    assert json.loads((tmp_path / "site" / MARKER).read_text())[1]["name"] == "two"
    tags = Tags((tmp_path / "site" / INDEX_PAGE).read_text())
    assert (tags.found.count("article"), tags.found.count("audio"), tags.found.count("script")) == (2, 2, 1)
    assert tags.sources == ["models/one/test.wav", "models/two/test.wav"]
    for text in (
        "98.70 %",
        "word error rate (greedy_search, test)",
        "1,000",
        read_index(tmp_path / "zoo")[0].sha256,
        "ONE TWO THREE FOUR",
    ):
        assert any(text in found for found in tags.texts), text


def make_hostile(folder: Path) -> None:
    """Have everything in a model say what a page must not obey, its sums agree."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest |= dict.fromkeys(
        ("corpus", "language", "licence", "decoding_method", "package_version", "commit"), HOSTILE
    )
    manifest["error_rates"] = {HOSTILE: {HOSTILE: float("nan")}, "test": {"a": float("inf"), "b": -5.0, "c": 7.0}}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder / CARD_FILE).write_text(f"# {HOSTILE}\n\n{HOSTILE}\n\n[x](javascript:alert(1))\n")
    (folder / TEST_TEXT).write_bytes(f"{HOSTILE}: {HOSTILE}\n".encode() + b"\xff\xfe\n")
    write_sums(folder)
    add(folder)


def test_what_a_model_says_is_shown_and_not_obeyed(saved: Save, tmp_path: Path) -> None:
    make_hostile(saved("hostile"))
    write_site(tmp_path / "zoo", tmp_path / "site")
    tags = Tags((tmp_path / "site" / INDEX_PAGE).read_text())
    assert (tags.found.count("script"), tags.found.count("img"), tags.found.count("article")) == (1, 0, 1)
    assert sum("alert(1)" in text for text in tags.texts) > 8


def test_a_site_appears_whole_and_replaces_only_its_like(saved: Save, tmp_path: Path) -> None:
    folder = saved()
    add(folder)
    site = tmp_path / "site"
    write_site(tmp_path / "zoo", site)
    before = (site / INDEX_PAGE).read_text()
    with pytest.raises(FileExistsError, match="or --overwrite"):
        write_site(tmp_path / "zoo", site)
    (folder / TEST_WAV).write_bytes(b"changed")
    with pytest.raises(ValueError, match=TEST_WAV):
        write_site(tmp_path / "zoo", site, overwrite=True)
    assert (site / INDEX_PAGE).read_text() == before
    with pytest.raises(FileExistsError, match=f"holds no {MARKER}"):
        write_site(tmp_path / "zoo", tmp_path / "zoo", overwrite=True)
    assert (tmp_path / "zoo" / INDEX_FILE).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "zoo"]


@pytest.mark.parametrize("name", [CARD_FILE, TEST_TEXT, TEST_WAV])
def test_links_and_endless_texts_are_not_read(saved: Save, tmp_path: Path, name: str) -> None:
    folder = saved()
    secret = tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    add(folder)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        write_site(tmp_path / "zoo", tmp_path / "site")
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        os.truncate(file.fileno(), 1 << 27)
    with pytest.raises(ValueError, match=f"{name} has {1 << 27} bytes"):
        write_site(tmp_path / "zoo", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_command_tells_where_the_page_is(saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(saved())
    site = tmp_path / "site"
    main(["html", "--zoo-dir", str(tmp_path / "zoo"), "--output-dir", str(site)])
    assert capsys.readouterr().out == f"{site / INDEX_PAGE}: 1 model\n"
    with pytest.raises(SystemExit):
        main(["html", "--zoo-dir", str(tmp_path / "nowhere"), "--output-dir", str(site), "--overwrite"])
    assert "no zoo in" in capsys.readouterr().err


TAGS = {"a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong"}
TAGS |= {"table", "tbody", "td", "th", "thead", "tr", "ul"}


def test_a_models_own_card_is_shown_without_its_header() -> None:
    html = card_html(model_card(tiny_manifest(), TINY))
    assert html.startswith("<h3>tiny</h3>")
    assert "license:" not in html
    assert "<td>98.70 %</td>" in html
    assert '<a href="https://arxiv.org/abs/2209.08326" rel="noopener noreferrer nofollow">' in html


@pytest.mark.parametrize(
    "card",
    [
        "<script>alert(1)</script>",
        "text <img src=x onerror=alert(1)>",
        "<iframe src='https://example.org'></iframe>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&colon;alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](file:///etc/passwd)",
        "![x](https://example.org/track.png)",
        "[x]: javascript:alert(1)\n\n[x]",
        '<svg/onload=alert(1)>"><script>',
        "```</code></pre><script>\n```",
        '[x](https://e.org/"onmouseover="alert(1))',
        "| a |\n|:-:|\n| <b onclick=x> |",
        "---\nno end of the header <script>",
    ],
)
def test_hostile_cards_do_nothing(card: str) -> None:
    check_harmless(card_html(card))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from(list("<>\"'&=/:;[]()!`*_#|-\n \tabjsx:hrefonld")), max_size=80))
def test_no_text_whatsoever_becomes_more_than_text(card: str) -> None:
    check_harmless(card_html(card))


def check_harmless(html: str) -> None:
    for tag, attributes in re.findall(r"</?([^\s>/]+)([^>]*)>", html):
        assert tag in TAGS, html
        names = re.findall(r'\s([a-z-]+)="', attributes)
        assert set(names) <= {"href", "rel", "class", "title", "start"}, html
    assert all(url.startswith(("https://", "http://")) for url in re.findall(r'href="([^"]*)"', html)), html


ELLIPSIS = "\u2026"
HOSTILE_NAME = "<script>alert(1)</script>\"'&"


def parse(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{chart}</div>")


def widths(chart: str) -> list[str]:
    return [rect.attrib["width"] for rect in parse(chart).iter("rect")]


def test_bars_are_as_long_as_the_rates_and_the_own_search_stands_out() -> None:
    chart = wer_tables(
        {
            "test": {"greedy": 20.0, "beam": 10.0},
            "dev": {"ctc_greedy_search": 4.0, "greedy_search-max-sym-per-frame-1": 5.0},
        },
        own="greedy_search",
    )
    assert widths(chart) == ["100.0%", "50.0%", "25.0%", "20.0%"]
    tables = list(parse(chart))
    assert [table[0].text for table in tables] == ["test", "dev"]
    rows = [[row.get("class"), "".join(row[0].itertext()), row[2].text] for table in tables for row in table.iter("tr")]
    assert rows == [
        [None, "greedy", "20.00 %"],
        [None, "beam", "10.00 %"],
        ["compared", "greedy_searchmax-sym-per-frame-1", "5.00 %"],
        [None, "ctc_greedy_search", "4.00 %"],
    ]


LATTICE = "-hlg-scale-1.0-lattice-engine-{}-ctc-topology-standard-search-beam-20.0-output-beam-8.0-max-active-7000"
RESCORING = "nbest_rescoring" + LATTICE + "-num-paths-200-rescoring-ngram-G_4_gram-backoff-exact-lm-scale-{}"


def test_several_searches_by_one_method_say_what_they_share_and_what_tells_them_apart() -> None:
    """Nothing of the longest names is cut."""
    rates = {RESCORING.format(engine, scale): 45.0 for engine in ("embedded", "k2") for scale in (0.5, 1.0)}
    (table,) = parse(wer_tables({"test": {"ctc_greedy_search": 59.0, **rates}}, own="greedy_search"))
    assert ["".join(row[0].itertext()) for row in table.iter("tr")] == [
        "ctc_greedy_search",
        RESCORING.format(ELLIPSIS, ELLIPSIS).replace("nbest_rescoring-", "nbest_rescoring"),
        "engine embedded, scale 0.5",
        "engine embedded, scale 1.0",
        "engine k2, scale 0.5",
        "engine k2, scale 1.0",
    ]


def test_options_that_are_not_alike_are_whole() -> None:
    assert told_apart(["beam-4", "beam-4-hotwords-A"]) == ("", ["beam-4", "beam-4-hotwords-A"])
    assert told_apart(["beam-4", "beam-8"]) == (f"beam-{ELLIPSIS}", ["beam 4", "beam 8"])
    assert told_apart(["", "4"]) == (ELLIPSIS, ["", "4"])


def test_nothing_measured_is_no_picture() -> None:
    assert wer_tables({}, own="greedy_search") == wer_tables({"test": {}}, own="greedy_search") == ""


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, 1e300])
def test_what_is_no_rate_has_no_bar(rate: float) -> None:
    assert widths(wer_tables({"test": {"a": rate, "b": 10.0}}, own="greedy_search")) == ["0.0%", "100.0%"]
    assert widths(wer_tables({"test": {"a": rate}}, own="greedy_search")) == ["0.0%"]
    assert widths(wer_tables({"test": {"a": 0.0}}, own="greedy_search")) == ["0.0%"]
    assert "not a number" in wer_tables({"test": {"a": rate}}, own="greedy_search")


def test_names_of_any_kind_stay_names_and_are_shortened() -> None:
    chart = wer_tables({HOSTILE_NAME: {HOSTILE_NAME: 1.0, "x" * 10**6: 2.0}}, own="greedy_search")
    assert list(parse(chart).iter("script")) == []
    assert "&lt;script&gt;" in chart
    assert f"{'x' * (LONGEST_LABEL - 1)}{ELLIPSIS}" in chart
    assert len(chart) < 1200
    assert len(wer_tables({"test": {str(i): 1.0 for i in range(10**4)}}, own="greedy_search")) < 400 * MAX_ROWS
