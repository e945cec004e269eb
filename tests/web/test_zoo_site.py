from __future__ import annotations

import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shared_moe_conformer.release.manifest import CARD_FILE, MANIFEST_FILE, TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import INDEX_FILE, add, read_index, write_sums
from shared_moe_conformer.web.zoo_site import INDEX_PAGE, MARKER, write_site
from shared_moe_conformer.zoo import main

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
