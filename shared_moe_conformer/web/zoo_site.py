"""A zoo as a folder of static files: one page with all models, and their test recordings.

Models are not trusted: the texts of their files are escaped, and their cards cannot run anything.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from tqdm import tqdm

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.config import require, to_dict
from shared_moe_conformer.release.manifest import (
    CARD_FILE,
    TEST_TEXT,
    TEST_WAV,
    Manifest,
    is_by,
    read_manifest,
)
from shared_moe_conformer.release.transfer import verify_files
from shared_moe_conformer.release.zoo_index import ZooEntry, read_index, require_small
from shared_moe_conformer.web import Markup, folded, read_page, security_policy, tag

MARKER = "zoo-site.json"
"""The index for programs, which also marks a folder that `write_site` wrote."""
INDEX_PAGE = "index.html"
MAX_TEXT = 1 << 18
"""Largest size of a card or transcript, in bytes."""
MAX_WAV = 1 << 26
"""Largest size of a test recording, in bytes."""
MAX_ROWS = 100
"""Most rates shown for a test set; a recipe has about thirty."""
LONGEST_LABEL = 250
"""Most characters of a name; a search with all its options has about two hundred."""
COLUMNS = ("name", "corpus", "language", "licence", "unique", "unrolled", "active", "size", "WER")


def write_site(zoo_dir: Path, target: Path, *, overwrite: bool = False) -> int:
    """Write a page of all models of a zoo, each checked against its sums first.

    Args:
      zoo_dir: the zoo.
      target: the folder to make; it appears whole or not at all.
      overwrite: replace what an earlier call wrote.

    Returns:
      The number of models on the page.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      FileNotFoundError: a model's files are missing.
      ValueError: a file is damaged, too long, or not a regular file.
    """
    require(zoo_dir.is_dir(), f"no zoo in {zoo_dir}: ./export.py --zoo-dir {zoo_dir} makes one")
    entries = read_index(zoo_dir)
    with atomic_folder(target, marker=MARKER, overwrite=overwrite) as site:
        models = [_add_model(entry, zoo_dir / entry.path, site) for entry in tqdm(entries, unit="model", disable=None)]
        (site / INDEX_PAGE).write_text(zoo_page(entries, models), encoding="utf-8", errors="replace")
        index = [to_dict(entry) for entry in entries]
        (site / MARKER).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return len(entries)


def zoo_page(entries: Sequence[ZooEntry], models: Sequence[str]) -> str:
    """The page.

    Args:
      entries: the models, in the order of the table.
      models: each one's part of the page, as HTML.
    """
    page = read_page("zoo.html")
    policy = security_policy(page, media_src="'self' file:", img_src="data:")
    heads = (
        tag("th", tag("button", name, type="button"), scope="col", class_=_column_class(i))
        for i, name in enumerate(COLUMNS)
    )
    return (
        page.replace("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">')
        .replace("<!-- heads -->", "".join(heads))
        .replace("<!-- rows -->", "\n".join(map(_table_row, entries)))
        .replace("<!-- models -->", "\n".join(models))
    )


def _add_model(entry: ZooEntry, folder: Path, site: Path) -> str:
    """Copy a model's test recording into the site; its part of the page."""
    manifest = read_manifest(folder)
    for name in (CARD_FILE, TEST_TEXT, TEST_WAV):
        require(not (folder / name).is_symlink(), f"{folder / name} is a link, not a file: get the model again")
    require_small(folder, (CARD_FILE, TEST_TEXT), max_bytes=MAX_TEXT)
    require_small(folder, (TEST_WAV,), max_bytes=MAX_WAV)
    verify_files(entry, folder)
    recording = Path("models") / entry.name / TEST_WAV
    (site / recording).parent.mkdir(parents=True)
    shutil.copyfile(folder / TEST_WAV, site / recording)
    texts = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in (CARD_FILE, TEST_TEXT)]
    return _model_section(entry, manifest, recording.as_posix(), *texts)


def _model_section(entry: ZooEntry, manifest: Manifest, recording: str, card: str, test_text: str) -> Markup:
    """A model's part of the page."""
    rates = wer_tables(entry.error_rates, own=entry.decoding_method) or tag("p", "None were measured.", class_="soft")
    said = [(key, text) for key, _, text in (line.partition(":") for line in test_text.splitlines() if line.strip())]
    audio = tag(
        "audio", controls="controls", preload="metadata", src=recording, aria_label=f"Test recording of {entry.name}"
    )
    return tag(
        "article",
        tag("h2", entry.name),
        tag("p", " · ".join((entry.language, entry.corpus, entry.licence, manifest.decoding_method)), class_="soft"),
        _definitions(_sizes(entry), kind="sizes"),
        tag(
            "div",
            tag("section", tag("h3", "Word error rates"), rates),
            tag("section", tag("h3", "Test recording"), audio, _definitions(said, kind="said")),
            class_="halves",
        ),
        folded("Card", tag("div", card_html(card), class_="model-card")),
        folded("Versions and sums", _definitions(_versions(entry, manifest), kind="facts")),
        class_="card",
        id=f"model-{entry.name}",
        **_row_data(entry),
    )


def _sizes(entry: ZooEntry) -> list[tuple[str, str]]:
    where = ", ".join([entry.decoding_method, *(entry.word_error_rate or ())[1:]])
    return [
        ("parameters stored", f"{entry.unique_parameters / 1e6:.2f} M"),
        ("unrolled", f"{entry.unrolled_parameters / 1e6:.2f} M"),
        ("active", f"{entry.active_parameters / 1e6:.2f} M"),
        ("on the disk", f"{entry.size / 1e6:.1f} MB"),
        (f"word error rate ({where})", f"{entry.word_error_rate[0]:.2f} %" if entry.word_error_rate else "\u2013"),
    ]


def _versions(entry: ZooEntry, manifest: Manifest) -> list[tuple[str, str]]:
    return [
        ("written by", f"shared-moe-conformer {manifest.package_version}"),
        ("commit", manifest.commit or "unknown"),
        ("SHA-256 of SHA256SUMS", entry.sha256),
    ]


def _definitions(facts: Sequence[tuple[str, str]], *, kind: str) -> Markup:
    rows = (tag("div", tag("dt", name), tag("dd", value.strip())) for name, value in facts)
    return tag("dl", *rows, class_=kind)


def _table_row(entry: ZooEntry) -> Markup:
    texts = (entry.name, entry.corpus, entry.language, entry.licence)
    rate = entry.word_error_rate[0] if entry.word_error_rate else "inf"
    counts = (entry.unique_parameters, entry.unrolled_parameters, entry.active_parameters, entry.size, rate)
    shown = [tag("a", entry.name, href=f"#model-{entry.name}"), *texts[1:], *(text for _, text in _sizes(entry))]
    cells = (
        tag("td", text, class_=_column_class(i), data_value=str(value))
        for i, (text, value) in enumerate(zip(shown, (*map(str.lower, texts), *counts)))
    )
    return tag("tr", *cells, **_row_data(entry))


def _row_data(entry: ZooEntry) -> dict[str, str]:
    """The texts that the page searches."""
    search = " ".join((entry.name, entry.corpus, entry.language, entry.licence)).lower()
    return {"data_name": entry.name, "data_search": search}


def _column_class(column: int) -> str | None:
    return "number" if column >= COLUMNS.index("unique") else None


def wer_tables(error_rates: Mapping[str, Mapping[str, float]], *, own: str) -> Markup:
    """A table of each test set's word error rates in percent, a bar beside each; empty where there are none.

    All bars have one scale. Searches by the model's own method come first and stand out.

    Args:
      error_rates: any names, and rates that may not be numbers.
      own: the method that the model uses by default.
    """
    most = max((rate for rates in error_rates.values() for rate in rates.values() if _is_rate(rate)), default=0.0)
    tables = (_wer_table(test_set, rates, most=most, own=own) for test_set, rates in error_rates.items() if rates)
    return Markup("\n".join(tables))


def _wer_table(test_set: str, rates: Mapping[str, float], *, most: float, own: str) -> Markup:
    """A row for each method; several searches by one method get a row each, below a row with their common part."""
    by_method: dict[str, list[tuple[str, float]]] = {}
    for settings, rate in sorted(rates.items(), key=lambda item: not is_by(item[0], own))[:MAX_ROWS]:
        method, _, options = _cut(settings).partition("-")
        by_method.setdefault(method, []).append((options, rate))
    rows = [tag("caption", _breakable(_cut(test_set)))]
    for method, found in by_method.items():
        kind = "compared" if method == own else None
        common, labels = told_apart([options for options, _ in found])
        name = Markup(_breakable(method) + (tag("small", _breakable(common)) if common else ""))
        if len(found) == 1:
            rows.append(_wer_row(kind, name, found[0][1], most=most))
            continue
        rows.append(tag("tr", tag("th", name, scope="rowgroup", colspan="3"), class_=kind))
        of_each = zip(labels, found)
        rows += [_wer_row(kind or "one", _breakable(label), rate, most=most) for label, (_, rate) in of_each]
    return tag("table", *rows, class_="chart")


def told_apart(options: Sequence[str]) -> tuple[str, list[str]]:
    """The common part of settings, with an ellipsis where they differ; and what is different in each, with its name.

    Settings with different numbers of words have nothing in common, and stay whole.
    """
    words = [text.split("-") for text in options]
    if len({len(of_one) for of_one in words}) > 1:
        return "", list(options)
    differs = [len(set(column)) > 1 for column in zip(*words)]
    common = "-".join("\u2026" if differ else word for differ, word in zip(differs, words[0]))
    places = [i for i, differ in enumerate(differs) if differ]
    return common, [", ".join(" ".join(of_one[max(0, i - 1) : i + 1]) for i in places) for of_one in words]


def _wer_row(kind: str | None, label: Markup, rate: float, *, most: float) -> Markup:
    share = 100 * rate / most if most and _is_rate(rate) else 0.0
    bar = tag("svg", tag("rect", width=f"{share:.1f}%", height="100%", rx="2"), aria_hidden="true")
    value = f"{rate:.2f} %" if _is_rate(rate) else "not a number"
    cells = tag("th", label, scope="row"), tag("td", bar, class_="bar"), tag("td", value, class_="number")
    return tag("tr", *cells, class_=kind)


def _is_rate(rate: float) -> bool:
    return math.isfinite(rate) and 0 <= rate < 1e6


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026"


def _breakable(text: str) -> Markup:
    return Markup(escape(text).replace("_", "_<wbr/>"))  # where a line may break


def card_html(markdown: str) -> Markup:
    """A card without its header: raw HTML is shown as text, pictures are links, and links lead only to web pages.

    Source: CommonMark, with the tables of GitHub Flavored Markdown.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.validateLink = lambda url: url.startswith(("https://", "http://"))  # type: ignore[method-assign]
    tokens = parser.parse(re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL))
    for token in tokens:
        _make_modest(token)
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _make_modest(token: Token) -> None:
    """Lower a heading, keep links from telling who follows them, and drop attributes that the policy refuses."""
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1]) + 2)}"  # the page and the model have titles
    if token.type == "link_open":
        token.attrSet("rel", "noopener noreferrer nofollow")
    token.attrs.pop("style", None)  # of columns that are aligned
    for child in token.children or ():
        _make_modest(child)
