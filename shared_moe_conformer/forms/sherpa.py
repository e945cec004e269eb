"""sherpa-onnx in its own process, because it exits when it refuses a model; job and result are JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Recognised(NamedTuple):
    """The texts that one recogniser found in all recordings."""

    texts: list[str]
    """Text of each recording."""
    seconds: list[float]
    """CPU time of all recordings together, for each round."""


def recognise(
    files: Mapping[str, Mapping[str, str]],
    recordings: Sequence[Path],
    *,
    folder: Path,
    sampling_rate: int,
    rounds: int = 1,
) -> dict[str, Recognised]:
    """The texts that sherpa-onnx recognises on one thread; the recognisers take turns, so that their times compare.

    Args:
      files: each recogniser's graphs, by its name: encoder, decoder and joiner, or only ctc.
      recordings: wav files.
      folder: the folder of the graphs and of tokens.txt.
      sampling_rate: of the model's features, in Hz.
      rounds: number of times that all is recognised.

    Raises:
      ValueError: sherpa-onnx is not installed, or exited; the message has its last line.
    """
    job = {
        "files": {name: {part: str(folder / file) for part, file in parts.items()} for name, parts in files.items()},
        "tokens": str(folder / "tokens.txt"),
        "recordings": [str(path) for path in recordings],
        "sampling_rate": sampling_rate,
        "rounds": rounds,
    }
    command = [sys.executable, "-m", __name__]
    result = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        said = (result.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(f"sherpa-onnx ended with status {result.returncode}: {said}")
    return {name: Recognised(**values) for name, values in json.loads(lines[-1]).items()}


def main() -> None:
    """Read a job from the standard input and print its result."""
    job = json.load(sys.stdin)
    options = {"tokens": job["tokens"], "sample_rate": job["sampling_rate"], "num_threads": 1}
    recognisers = {name: _recogniser(parts, options) for name, parts in job["files"].items()}
    found: dict[str, dict[str, list[Any]]] = {name: {"texts": [], "seconds": []} for name in recognisers}
    for _ in range(job["rounds"]):
        for name, recogniser in recognisers.items():
            streams = [_stream(recogniser, path) for path in job["recordings"]]
            begin = time.process_time()
            for stream in streams:
                recogniser.decode_stream(stream)
            found[name]["seconds"].append(time.process_time() - begin)
            found[name]["texts"] = [" ".join(stream.result.text.split()) for stream in streams]
    print(json.dumps(found))


def _recogniser(files: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    import sherpa_onnx

    if "ctc" in files:
        return sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model=files["ctc"], **options)
    return sherpa_onnx.OfflineRecognizer.from_transducer(**files, **options)


def _stream(recogniser: Any, path: str) -> Any:
    import soundfile

    samples, sampling_rate = soundfile.read(path, dtype="float32")
    stream = recogniser.create_stream()
    stream.accept_waveform(sampling_rate, samples)
    return stream


if __name__ == "__main__":
    main()
