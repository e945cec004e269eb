from __future__ import annotations

from shared_moe_conformer.reporting.markup import Markup, join, tag


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    element = tag("p", "<b> & ", tag("i", '"x"'), title='"><script>')
    assert element == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt; &amp; <i>&quot;x&quot;</i></p>'
    assert join(element, "<") == element + "&lt;"
    assert isinstance(join("a"), Markup)


def test_names_of_attributes_are_those_of_svg() -> None:
    assert tag("a", class_="x", stroke_width=1.50, y=None) == '<a class="x" stroke-width="1.5"></a>'


def test_what_is_none_is_left_out_and_void_elements_have_no_end() -> None:
    assert tag("p", None, "a", None) == "<p>a</p>"
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
