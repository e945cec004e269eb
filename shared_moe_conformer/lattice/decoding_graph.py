"""Decoding graphs: H, the CTC topology; HLG, from frame labels to words; LG, from tokens to words.

L is the lexicon, words and their spellings in tokens, and G the n-gram of a lang folder. HLG and LG are built once and
kept there in files. The lexicon's files are icefall's: words.txt ("word id" per line) and lexicon.txt ("word token
token .." per line).
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.lattice.graphs import Graph, WordGraph, graph_of_arcs
from shared_moe_conformer.lattice.ngram import BACKOFF, BOS, EOS, EPSILON, RESERVED, NgramModel
from shared_moe_conformer.text import counted

WORDS_FILE, LEXICON_FILE, TOKENS_FILE = "words.txt", "lexicon.txt", "tokens.txt"


@dataclass(frozen=True)
class Lexicon:
    """The words of a graph, each with one spelling."""

    tokens: list[str]
    """All units of the CTC head, blank first."""
    spellings: dict[str, list[int]]
    """The tokens of each word; words in alphabetical order."""

    def __post_init__(self) -> None:
        for word, spelling in self.spellings.items():
            if word in RESERVED or len(word.split()) != 1:
                raise ValueError(f"{word!r} cannot be a word: remove it from the texts")
            if not spelling or not all(0 < token < len(self.tokens) for token in spelling):
                raise ValueError(f"the word {word!r} is spelled {spelling}: train the tokenizer on these texts")
        if not self.spellings:
            raise ValueError("a lexicon without words: are the transcripts empty?")

    @property
    def words(self) -> list[str]:
        """The word of each output label: epsilon, the words, the back-off symbol, start and end of a sentence."""
        return [EPSILON, *self.spellings, BACKOFF, BOS, EOS]

    @property
    def backoff_token(self) -> int:
        """Input label of the back-off symbol in L; the labels after it disambiguate spellings."""
        return len(self.tokens)

    def transducer(self) -> Graph:
        """L: from the tokens of any sequence of words to the words; a word's first arc gives the word.

        A spelling that equals another, or begins it, ends with a disambiguation symbol, and the back-off symbol passes
        through, so LG can be determinised. Source: Kaldi's L_disambig.
        """
        arcs: list[tuple[int, int, int, int]] = []
        state = 1
        for word, spelling in enumerate(_disambiguated(list(self.spellings.values()), self.backoff_token), start=1):
            states = [0, *range(state, state + len(spelling) - 1), 0]
            given = [word, *[0] * (len(spelling) - 1)]
            arcs += zip(states, states[1:], spelling, given)
            state += len(spelling) - 1
        arcs.append((0, 0, self.backoff_token, 1 + len(self.spellings)))
        return graph_of_arcs(np.array(arcs), np.zeros(len(arcs)), final_state=[0], final_weight=[0.0])

    def save(self, lang_dir: Path) -> None:
        """Write words.txt and lexicon.txt."""
        lines = [
            " ".join([word, *(self.tokens[token] for token in spelling)]) for word, spelling in self.spellings.items()
        ]
        write_whole(lang_dir / LEXICON_FILE, "".join(f"{line}\n" for line in lines))
        write_whole(lang_dir / WORDS_FILE, "".join(f"{word} {index}\n" for index, word in enumerate(self.words)))

    @classmethod
    def load(cls, lang_dir: Path) -> Lexicon:
        """The lexicon of a lang folder.

        Raises:
          FileNotFoundError: it has none.
          ValueError: lexicon.txt has a token that is not a unit, or words.txt lists other words.
        """
        paths = [lang_dir / name for name in (TOKENS_FILE, LEXICON_FILE, WORDS_FILE)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"no lexicon in {path}: run ./prepare.sh first")
        units, spelled, words = [path.read_text(encoding="utf-8").splitlines() for path in paths]
        tokens = [line.rsplit(" ", 1)[0] for line in units]
        numbers = {token: index for index, token in enumerate(tokens)}
        try:
            lexicon = cls(tokens, {w: [numbers[t] for t in spelling] for w, *spelling in map(str.split, spelled)})
        except KeyError as error:
            raise ValueError(
                f"{paths[1]} spells words with {error}, no unit of {paths[0]}: run ./prepare.sh"
            ) from error
        if words != [f"{word} {index}" for index, word in enumerate(lexicon.words)]:
            raise ValueError(f"{paths[2]} does not list the words of {paths[1]}: run ./prepare.sh again")
        return lexicon


def _disambiguated(spellings: Sequence[Sequence[int]], backoff_token: int) -> list[list[int]]:
    """Spellings with disambiguation symbols: none equals another or begins it. Source: Kaldi's add_lex_disambig.pl."""
    times = Counter(map(tuple, spellings))
    beginnings = {tuple(spelling[:length]) for spelling in spellings for length in range(1, len(spelling))}
    used: Counter[tuple[int, ...]] = Counter()
    result = []
    for spelling in map(tuple, spellings):
        ambiguous = times[spelling] > 1 or spelling in beginnings
        used[spelling] += ambiguous
        result.append([*spelling, backoff_token + used[spelling]] if ambiguous else [*spelling])
    return result


CtcTopology = Literal["auto", "standard", "modified"]

NGRAM_FILE = "G.arpa"
FILES = {
    "standard": "HLG_standard.safetensors",
    "modified": "HLG_modified.safetensors",
    "LG": "LG.safetensors",
}
"""The file of each kind of graph over words: HLG by its CTC topology, and LG."""
FORMAT = "1"
"""Changes whenever the same inputs give another graph, so that older files are stale."""
MODIFIED_FROM_VOCAB_SIZE = 500
"""Vocabulary size from which the standard topology's vocab_size squared arcs cost k2 seconds an utterance."""


def graph_path(lang_dir: Path, kind: str) -> Path:
    """The file of a lang folder's graph, or the .npz file of version 0.1 if that is the only one."""
    path = lang_dir / FILES[kind]
    old = path.with_suffix(".npz")
    return old if old.is_file() and not path.is_file() else path


def build_word_graph(lang_dir: Path, kind: str) -> bool:
    """Build a graph of a lang folder, unless there is one made from the same files; return whether it was built.

    Args:
      kind: a key of `FILES`.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
      ValueError: one is damaged, or the n-gram has a word that the lexicon lacks.
    """
    path, inputs = lang_dir / FILES[kind], inputs_hash(lang_dir, kind)
    if Graph.inputs_of(path) == inputs:
        return False
    from shared_moe_conformer.lattice.lg import compose_topology  # kaldifst is needed only to build graphs

    graph = lexicon_and_ngram(lang_dir)
    if kind != "LG":
        num_units = len(Lexicon.load(lang_dir).tokens)
        graph = compose_topology(ctc_topology(num_units, modified=kind == "modified"), graph)
    graph.save(path, inputs=inputs)
    return True


def lexicon_and_ngram(lang_dir: Path) -> Graph:
    """LG of a lang folder; errors: see `build_word_graph`."""
    from shared_moe_conformer.lattice.lg import compose_lexicon_and_ngram

    lexicon, arpa = Lexicon.load(lang_dir), lang_dir / NGRAM_FILE
    unknown = sorted(set(NgramModel.load(arpa).words) - lexicon.spellings.keys())
    if unknown:
        raise ValueError(
            f"the n-gram {arpa} has {counted(len(unknown), 'word')} that the lexicon lacks, {unknown[0]!r} first: "
            "make both from the same texts (./prepare.sh)"
        )
    return compose_lexicon_and_ngram(
        lexicon.transducer(), arpa, words=lang_dir / WORDS_FILE, backoff_token=lexicon.backoff_token
    )


def load_word_graph(lang_dir: Path, kind: str) -> WordGraph:
    """A graph of a lang folder.

    Raises:
      FileNotFoundError: it has none of this kind.
      ValueError: it was made from other files than the folder holds now.
    """
    path = graph_path(lang_dir, kind)
    topology = "" if kind == "LG" else f" --ctc-topology {kind}"
    remedy = f"run local/build_graph.py --lang-dir {lang_dir}{topology}"
    if not path.is_file():
        raise FileNotFoundError(f"no graph over words in {path}: {remedy}, after ./prepare.sh")
    graph = Graph.load(path)
    if Graph.inputs_of(path) != inputs_hash(lang_dir, kind):
        raise ValueError(f"{path} was built from other files than {lang_dir} holds now: {remedy}")
    words = Lexicon.load(lang_dir).words
    if int(graph.olabel.max()) >= len(words):
        raise ValueError(f"{path} has words that {lang_dir / WORDS_FILE} lacks: {remedy}")
    return WordGraph(graph, words)


def inputs_hash(lang_dir: Path, kind: str) -> str:
    """SHA-256 of everything that a graph over words depends on.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
    """
    result = hashlib.sha256(f"{FORMAT} {kind}".encode())
    for name in (TOKENS_FILE, WORDS_FILE, LEXICON_FILE, NGRAM_FILE):
        path = lang_dir / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, and graphs are made from it: run ./prepare.sh first")
        result.update(hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()


def chosen_topology(ctc_topology: CtcTopology, vocab_size: int) -> CtcTopology:
    """The topology that "auto" stands for."""
    if ctc_topology != "auto":
        return ctc_topology
    return "modified" if vocab_size >= MODIFIED_FROM_VOCAB_SIZE else "standard"


@functools.lru_cache(maxsize=4)  # the same graph each time, so engines can cache it
def ctc_topology(vocab_size: int, *, modified: bool) -> Graph:
    """The transducer from frame labels to tokens over `vocab_size` units, with blank, 0, among them.

    The standard topology demands a blank between equal tokens and has vocab_size squared arcs. The modified one does
    not and has 4 arcs per unit: a run of a token may be one token or several, and all readings have the same weight.

    Source: k2.ctc_topo, whose state numbers these are.
    """
    return _modified_topology(vocab_size) if modified else _standard_topology(vocab_size)


def _standard_topology(vocab_size: int) -> Graph:
    """State v: the last frame was v. An arc gives its label unless that is blank or continues a run."""
    units = np.arange(vocab_size)
    src, dst = np.repeat(units, vocab_size), np.tile(units, vocab_size)
    return _unweighted(src, dst, ilabel=dst, olabel=np.where(src == dst, 0, dst), final_state=units)


def _modified_topology(vocab_size: int) -> Graph:
    """State 0: no run is open. State v > 0: a run of two or more frames v is open."""
    units, tokens = np.arange(vocab_size), np.arange(1, vocab_size)
    nothing = np.zeros_like(tokens)
    return _unweighted(
        src=np.concatenate([np.zeros_like(units), nothing, np.repeat(tokens, 2)]),
        dst=np.concatenate([np.zeros_like(units), tokens, np.stack([tokens, nothing], axis=1).ravel()]),
        ilabel=np.concatenate([units, tokens, np.repeat(tokens, 2)]),
        olabel=np.concatenate([units, tokens, np.repeat(nothing, 2)]),
        final_state=np.zeros(1),
    )


def _unweighted(
    src: np.ndarray, dst: np.ndarray, *, ilabel: np.ndarray, olabel: np.ndarray, final_state: np.ndarray
) -> Graph:
    arcs, final = np.stack([src, dst, ilabel, olabel], axis=1), final_state.tolist()
    return graph_of_arcs(arcs, np.zeros(len(arcs)), final_state=final, final_weight=[0.0] * len(final))
