from __future__ import annotations

import json
from pathlib import Path

from shared_moe_conformer.speech.result_files import FORMATS, Result, write_results
from shared_moe_conformer.speech.transcript import EMPTY, Transcript, Word

SAID = Transcript("HELLO", ["\u2581HE", "LLO"], [0.5, 0.75], [Word("HELLO", 0.5, 0.79, 0.25)], [0.25, 0.5])
RESULTS = [Result("cut.2-1", "HELLO", SAID), Result("cut.1-0", "THERE", EMPTY)]


def lines(folder: Path, output_format: str) -> list[str]:
    path = write_results(RESULTS, folder / "greedy_search", name="test-epoch-1", output_format=output_format)
    assert path.name == f"hyps-test-epoch-1.{FORMATS[output_format][0]}"
    return path.read_text(encoding="utf-8").splitlines()


def test_every_format_has_every_utterance_in_order(tmp_path: Path) -> None:
    assert lines(tmp_path, "text") == ["cut.1-0", "cut.2-1 HELLO"]
    assert lines(tmp_path, "ctm") == [";; cut.1-0: nothing recognised", "cut.2-1 1 0.50 0.29 HELLO 0.25"]
    first, second = map(json.loads, lines(tmp_path, "jsonl"))
    assert (first["id"], first["ref"], first["text"], first["words"]) == ("cut.1-0", "THERE", "", [])
    assert second["words"] == [{"text": "HELLO", "start": 0.5, "end": 0.79, "confidence": 0.25}]
    assert second["confidences"] == [0.25, 0.5] and second["ref"] == "HELLO"
