"""README.md of a zoo in a Hugging Face repository: what its models are, for people and for the hub's search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from shared_moe_conformer.release.manifest import CARD_FILE, DEFAULT_SEARCH
from shared_moe_conformer.release.model_card import COMMON_HEADER, HUB_LICENCES, results_of
from shared_moe_conformer.release.zoo_index import ZooEntry

MARK = "<!-- written by shared_moe_conformer.zoo; without this line it is left as it is -->"

BODY = """{mark}

# Speech recognisers

Conformers whose layers share weights and sparsely-gated experts. This pulls one of them, checks it against its SHA-256
sums, and from then on needs no network:

```
python -m shared_moe_conformer.transcribe --model {location}/{first} speech.wav
```

| model | trained on | language | licence | parameters stored, active | MB | WER, {search} |
|---|---|---|---|---|---|---|
{rows}
"""


def zoo_card(entries: Sequence[ZooEntry], *, location: str) -> str:
    """The text of README.md.

    Args:
      entries: the models, one at least.
      location: the zoo's address, hf://owner/name.
    """
    header = yaml.safe_dump(zoo_header(entries), sort_keys=False, allow_unicode=True)
    rows = "\n".join(map(_row, entries))
    body = BODY.format(mark=MARK, location=location, first=entries[0].name, rows=rows, search=DEFAULT_SEARCH)
    return f"---\n{header}---\n{body}"


def zoo_header(entries: Sequence[ZooEntry]) -> dict[str, Any]:
    """The header's values; see `model_card.card_header`."""
    licences = {HUB_LICENCES.get(entry.licence, "other") for entry in entries}
    (licence,) = licences if len(licences) == 1 else ("other",)
    header: dict[str, Any] = {
        "language": sorted({code for entry in entries for code in entry.language.split(",")}),
        "license": licence,
    }
    if licence == "other":
        header["license_name"] = "of each model its own"
    header |= {**COMMON_HEADER, "datasets": sorted({entry.corpus for entry in entries})}
    measured = [{"name": entry.name, "results": results_of(entry)} for entry in entries if entry.error_rates]
    return header | ({"metrics": ["wer"], "model-index": measured} if measured else {})


def _row(entry: ZooEntry) -> str:
    rate = "{:.2f} % ({})".format(*entry.word_error_rate) if entry.word_error_rate else "not measured"
    counts = f"{entry.unique_parameters / 1e6:.2f} M, {entry.active_parameters / 1e6:.2f} M"
    name = f"[{entry.name}]({entry.path}/{CARD_FILE})"
    facts = (name, entry.corpus, entry.language, entry.licence, counts, f"{entry.size / 1e6:.1f}", rate)
    return f"| {' | '.join(facts)} |"
