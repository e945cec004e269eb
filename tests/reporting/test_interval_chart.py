from __future__ import annotations

from xml.etree import ElementTree

from shared_moe_conformer.reporting.interval_chart import Rate, interval_chart

SVG = "{http://www.w3.org/2000/svg}"


def test_the_spot_is_in_its_interval_and_better_rates_are_further_left() -> None:
    chart = interval_chart([Rate("best & first", 10.0, 8.0, 13.0), Rate("other", 20.0, 15.0, 21.0)], title="WER")
    rows = [e for e in ElementTree.fromstring(chart) if e.tag == f"{SVG}g"]
    places = []
    for row in rows:
        line, spot = row.find(f"{SVG}line"), row.find(f"{SVG}circle")
        assert line is not None and spot is not None
        low, high, value = float(line.get("x1", 0)), float(line.get("x2", 0)), float(spot.get("cx", 0))
        assert low < value < high
        places.append(value)
    assert places[0] < places[1]
    assert rows[0][0].text == "best & first: 10.00 [8.00, 13.00]"
