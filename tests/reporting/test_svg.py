from __future__ import annotations

from xml.etree import ElementTree

from shared_moe_conformer.reporting.svg import drawing, label, standalone, text_width


def test_a_picture_is_well_formed_and_says_what_it_is() -> None:
    root = ElementTree.fromstring(drawing(100, 50, label(1, 2, "a < b"), title="Loss & more"))
    assert root.get("viewBox") == "0 0 100 50" and root.get("aria-label") == "Loss & more"
    assert [element.text for element in root] == ["Loss & more", "a < b"]


def test_a_picture_of_its_own_carries_its_colours() -> None:
    root = ElementTree.fromstring(standalone(drawing(100, 50, label(1, 2, "a"), title="Loss")))
    tags = [element.tag.split("}")[1] for element in root]
    assert tags == ["style", "rect", "title", "text"]
    assert "--accent" in str(root[0].text)


def test_longer_texts_need_more_room() -> None:
    assert text_width(["ab", "abcd"]) == 2 * text_width(["ab"]) > 0 == text_width([])
