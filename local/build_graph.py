#!/usr/bin/env python3
"""Build the graphs over words of a lang folder from its lexicon and n-gram: HLG_<topology> and LG, as safetensors.

HLG goes from frame labels to words, and LG, for the transducer, from tokens to words. A graph that was already built
from the same files stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.lattice.decoding_graph import (
    CtcTopology,
    Lexicon,
    build_word_graph,
    chosen_topology,
    graph_path,
    load_word_graph,
)


def main() -> None:
    args = parser().parse_args()
    topology = chosen_topology(args.ctc_topology, len(Lexicon.load(args.lang_dir).tokens))
    built = build_word_graph(args.lang_dir, topology)
    graph = load_word_graph(args.lang_dir, topology).graph
    state = "built" if built else "up to date"
    print(f"{graph_path(args.lang_dir, topology)}: {len(graph.src)} arcs, {graph.num_states} states ({state})")
    state = "built" if build_word_graph(args.lang_dir, "LG") else "up to date"
    print(f"{graph_path(args.lang_dir, 'LG')}: {state}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder of the lexicon and the n-gram.")
    result.add_argument("--ctc-topology", choices=get_args(CtcTopology), default="auto",
                        help="The H of HLG; auto: modified from 500 units on.")  # fmt: skip
    return result


if __name__ == "__main__":
    run_main(main)
