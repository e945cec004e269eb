"""Run benchmarks one after the other, keep their results as JSON, and put them into benchmarks/README.md.

python -m benchmarks.run                       # all
python -m benchmarks.run encoder sharing       # some
python -m benchmarks.run --only-report         # README.md and picture from the results that are there
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from tqdm import tqdm

from benchmarks.picture import draw
from benchmarks.tables import Report, floors_table, from_json, markdown
from shared_moe_conformer.device import processor_name

FOLDER = Path(__file__).resolve().parent
README, RESULTS = FOLDER / "README.md", FOLDER / "results"
SCRIPTS = [
    "expert_layer",
    "sharing",
    "encoder",
    "pruned_transducer",
    "searches",
    "data_loading",
    "growth",
    "long_recordings",
    "compilation",
    "onnx_experts",
]
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PEERS = ("torchaudio", "transformers", "espnet", "fast_rnnt", "k2")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scripts", nargs="*", metavar="script", help=f"{', '.join(SCRIPTS)} [all]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is written")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    args = parser.parse_args()
    unknown = sorted(set(args.scripts) - set(SCRIPTS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: give some of {', '.join(SCRIPTS)}")
    if not args.only_report:
        run(args.scripts or SCRIPTS, quick=args.quick)
    if not args.quick:
        report()


def run(scripts: list[str], *, quick: bool) -> None:
    """Run each script in a process of its own."""
    folder = RESULTS / engine()
    for script in tqdm(scripts, desc="benchmarks", unit="script"):
        command = [sys.executable, "-m", f"benchmarks.{script}"]
        command += ["--quick"] if quick else ["--json", str(folder / f"{script}.json")]
        subprocess.run(command, check=True, cwd=FOLDER.parent)
    if not quick:
        (folder / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")


def engine() -> str:
    """k2 where it is installed, otherwise torch."""
    return "k2" if importlib.util.find_spec("k2") else "torch"


def machine() -> dict[str, str]:
    """The machine and the software that results depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", *PEERS) if importlib.util.find_spec(name)}
    return {
        "CPU": f"{processor_name()}, {os.cpu_count()} cores, one used",
        "GPU": "none: nothing here was run on one",
        "software": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def report() -> None:
    """Rewrite the README between its markers, and the picture."""
    found = {path.name: results_of(path) for path in sorted(RESULTS.iterdir(), reverse=True) if path.is_dir()}
    text = README.read_text()
    before, rest = text.split(BEGIN)
    sections = "\n\n".join(section(name, reports) for name, reports in found.items())
    README.write_text(f"{before}{BEGIN}\n\n{sections}\n\n{END}{rest.split(END)[1]}")
    draw(found, FOLDER / "ratios.svg")


def results_of(folder: Path) -> dict[str, Report]:
    """Each script's report, in the scripts' order."""
    paths = {script: folder / f"{script}.json" for script in SCRIPTS}
    return {script: from_json(path.read_text()) for script, path in paths.items() if path.is_file()}


def section(name: str, reports: dict[str, Report]) -> str:
    """One environment's results."""
    about = json.loads((RESULTS / name / "machine.json").read_text())
    described = "; ".join(f"{key}: {value}" for key, value in about.items()) + "."
    lines = [f"## `ENGINE={name}`", "", textwrap.fill(described, 120)]
    floors = [floor for each in reports.values() for floor in each.floors]
    tables = [floors_table(floors), *(table for each in reports.values() for table in each.tables)]
    return "\n".join(lines) + "\n\n" + "\n\n".join(markdown(table) for table in tables)


if __name__ == "__main__":
    main()
