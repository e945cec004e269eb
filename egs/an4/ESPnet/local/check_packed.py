#!/usr/bin/env python3
"""Whether a packed model, loaded by ESPnet's model zoo, says what was decoded with the model before it was packed."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import soundfile
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet_model_zoo.downloader import ModelDownloader

import shared_moe_conformer.espnet  # noqa: F401
from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require


def main() -> None:
    args = parser().parse_args()
    paths, texts = read_lines(args.wav), read_lines(args.hyp)
    with tempfile.TemporaryDirectory() as cache:  # the zoo's own cache would give the model that had this path before
        files = ModelDownloader(cachedir=cache).unpack_local_file(str(args.model))
        recognise = Speech2Text(**files, **yaml.safe_load(args.config.read_text()))
        for name, path in paths.items():
            samples, _ = soundfile.read(path, dtype="float32")
            text, expected = recognise(samples)[0][0], texts[name]
            require(text == expected, f"{name}: the packed model says {text!r}, not {expected!r}")
    print(f"{args.model}: the same {len(paths)} texts")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--model", type=Path, required=True, help="The packed model.")
    result.add_argument("--config", type=Path, default=Path("conf/decode.yaml"), help="Options of the search.")
    result.add_argument("--wav", type=Path, required=True, help="Kaldi's file of recordings.")
    result.add_argument("--hyp", type=Path, required=True, help="What was decoded.")
    return result


def read_lines(path: Path) -> dict[str, str]:
    """What a Kaldi file says of each utterance."""
    parts = [line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: value.strip() for name, _, value in parts}


if __name__ == "__main__":
    run_main(main)
