"""A zoo as a folder of static files: one page with all models, and their test recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tqdm import tqdm

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.config import require, to_dict
from shared_moe_conformer.release.manifest import (
    CARD_FILE,
    DEFAULT_SEARCH,
    TEST_TEXT,
    TEST_WAV,
    Manifest,
    read_manifest,
)
from shared_moe_conformer.release.transfer import verify_files
from shared_moe_conformer.release.zoo_index import ZooEntry, read_index, require_small
from shared_moe_conformer.web.cards import card_html
from shared_moe_conformer.web.charts import wer_chart
from shared_moe_conformer.web.pages import read_page, security_policy

MARKER = "zoo-site.json"
"""The index again, for programs; and the sign that a folder was written by `write_site`."""
INDEX_PAGE = "index.html"
MAX_TEXT = 1 << 18
"""Bytes of a card or a transcript at most."""
MAX_WAV = 1 << 26
"""Bytes of a test recording at most."""
COLUMNS = ("name", "corpus", "language", "licence", "unique", "unrolled", "active", "size", "WER")


def write_site(zoo_dir: Path, target: Path, *, overwrite: bool = False) -> int:
    """Write a page of all models of a zoo, each checked against its sums first.

    Args:
      zoo_dir: the zoo.
      target: the folder to be made; it appears whole or not at all.
      overwrite: replace what an earlier call wrote.

    Returns:
      Models on the page.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      FileNotFoundError: a model's files are gone.
      ValueError: a file is damaged, too long, or not a file.
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
    heads = "".join(
        f'<th scope="col"{_number_class(i)}><button type="button">{name}</button></th>'
        for i, name in enumerate(COLUMNS)
    )
    return (
        page.replace("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">')
        .replace("<!-- heads -->", heads)
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


def _model_section(entry: ZooEntry, manifest: Manifest, recording: str, card: str, test_text: str) -> str:
    """A model's part of the page; all that its files say is escaped."""
    name = escape(entry.name)
    chart = wer_chart(entry.error_rates) or '<p class="soft">None were measured.</p>'
    about = " · ".join((entry.language, entry.corpus, entry.licence, manifest.decoding_method))
    return f"""
<article class="card" id="model-{name}" data-name="{name}" data-search="{escape(_search_text(entry))}">
<h2>{name}</h2>
<p class="soft">{escape(about)}</p>
{_definitions(_sizes(entry), kind="sizes")}
<div class="halves">
<section><h3>Word error rates</h3>{chart}</section>
<section><h3>Test recording</h3>
<audio controls preload="metadata" src="{escape(recording)}" aria-label="Test recording of {name}"></audio>
{_definitions(_lines(test_text), kind="said")}</section>
</div>
<details><summary>Card</summary><div class="model-card">{card_html(card)}</div></details>
<details><summary>Versions and sums</summary>{_definitions(_versions(entry, manifest), kind="facts")}</details>
</article>"""


def _sizes(entry: ZooEntry) -> list[tuple[str, str]]:
    counts = (entry.unique_parameters, entry.unrolled_parameters, entry.active_parameters)
    kinds = ("parameters stored", "unrolled", "active")
    where, rate = _shown_rate(entry)
    return [
        *((kind, f"{count / 1e6:.2f} M") for kind, count in zip(kinds, counts)),
        ("on the disk", f"{entry.size / 1e6:.1f} MB"),
        (f"word error rate ({where})", rate),
    ]


def _shown_rate(entry: ZooEntry) -> tuple[str, str]:
    """By which search, on which test set; and the word error rate there."""
    if entry.word_error_rate is None:
        return DEFAULT_SEARCH, "\u2013"
    rate, test_set = entry.word_error_rate
    return f"{DEFAULT_SEARCH}, {test_set}", f"{rate:.2f} %"


def _versions(entry: ZooEntry, manifest: Manifest) -> list[tuple[str, str]]:
    return [
        ("written by", f"shared-moe-conformer {manifest.package_version}"),
        ("commit", manifest.commit or "unknown"),
        ("unique parameters (stored)", f"{entry.unique_parameters:,}"),
        ("unrolled parameters (shared ones once per layer)", f"{entry.unrolled_parameters:,}"),
        ("active parameters (compute one frame)", f"{entry.active_parameters:,}"),
        ("size", f"{entry.size:,} bytes"),
        ("SHA-256 of SHA256SUMS", entry.sha256),
    ]


def _definitions(facts: Sequence[tuple[str, str]], *, kind: str) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value.strip())}</dd></div>" for name, value in facts)
    return f'<dl class="{kind}">{rows}</dl>'


def _table_row(entry: ZooEntry) -> str:
    counts = (entry.unique_parameters, entry.unrolled_parameters, entry.active_parameters)
    cells: list[tuple[str, float | str]] = [
        *((text, text.lower()) for text in (entry.name, entry.corpus, entry.language, entry.licence)),
        *((f"{count / 1e6:.2f} M", count) for count in counts),
        (f"{entry.size / 1e6:.1f} MB", entry.size),
        (_shown_rate(entry)[1], entry.word_error_rate[0] if entry.word_error_rate else "inf"),
    ]
    name = escape(entry.name)
    shown = [escape(text) for text, _ in cells]
    shown[0] = f'<a href="#model-{name}">{name}</a>'
    row = "".join(
        f'<td{_number_class(i)} data-value="{escape(str(value))}">{text}</td>'
        for i, (text, (_, value)) in enumerate(zip(shown, cells))
    )
    return f'<tr data-name="{name}" data-search="{escape(_search_text(entry))}">{row}</tr>'


def _number_class(column: int) -> str:
    return ' class="number"' if column >= COLUMNS.index("unique") else ""


def _search_text(entry: ZooEntry) -> str:
    return " ".join((entry.name, entry.corpus, entry.language, entry.licence)).lower()


def _lines(test_text: str) -> list[tuple[str, str]]:
    """What stands before and after the first colon of each line."""
    parts = [line.partition(":") for line in test_text.splitlines() if line.strip()]
    return [(key, text) for key, _, text in parts]
