"""The verb that releases: averaged checkpoints of an experiment become a bundle in a zoo, and other forms."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from shared_moe_conformer.atomic import check_free
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import Parser, add_config_flag, add_flags, apply_flags, run_main
from shared_moe_conformer.config import Config, NeuralLmType, replace_fields, require
from shared_moe_conformer.data.manifests import cuts_path, iterate_cut_file, read_cuts
from shared_moe_conformer.data.tokenizer import Tokenizer, refuse_other_units
from shared_moe_conformer.decoding.methods import METHODS, settings
from shared_moe_conformer.decoding.neural_lm import load_neural_lm, neural_lm_path
from shared_moe_conformer.decoding.options import LOW_ORDER, DecodingConfig, DecodingMethod, token_ngram_path
from shared_moe_conformer.decoding.scoring import short_name
from shared_moe_conformer.decoding.searches import resolved
from shared_moe_conformer.decoding.tuned_values import read_tuned, search_named, tuned_note, values_of
from shared_moe_conformer.device import tune_cpu
from shared_moe_conformer.forms.catalogue import FORMS, FORMS_HELP, refuse_unused_chunks, target_of, write_form
from shared_moe_conformer.forms.sherpa_folder import StreamingForm
from shared_moe_conformer.lattice.decoding_graph import chosen_topology, graph_path, load_word_graph
from shared_moe_conformer.params import count_parameters
from shared_moe_conformer.pretrained import load_experiment, origins
from shared_moe_conformer.release.manifest import (
    DEFAULT_SEARCH,
    GRAPH_FILES,
    MANIFEST_FILE,
    TEST_TEXT,
    WORD_FILES,
    ExampleRecording,
    Manifest,
    package_commit,
    require_name,
)
from shared_moe_conformer.release.zoo_index import add
from shared_moe_conformer.speech.recognition import usual_length
from shared_moe_conformer.text import first_line
from shared_moe_conformer.training.averaging import Selection

EXAMPLE_SECONDS = 3.0
"""Preferred duration of the recording that is released with a model, in seconds."""


def main(configs: Mapping[str, Config], *, recipe_dir: Path, arguments: Sequence[str] | None = None) -> None:
    """The command line of a recipe's export.py."""
    args = _parser(configs).parse_args(arguments)
    exp_dir = args.exp_dir or recipe_dir / "exp" / args.config
    run_main(lambda: _export(args, exp_dir=exp_dir, recipe_dir=recipe_dir))


def export(
    folder: Path,
    *,
    exp_dir: Path,
    recipe_dir: Path,
    selection: Selection,
    decoding_method: str = DEFAULT_SEARCH,
    with_graph: bool = False,
    with_lm: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write the bundle of an experiment's averaged model, and enter it into the index of the zoo around it.

    Args:
      folder: the folder to make; its name is the model's, and the folder around it is the zoo.
      with_lm: kinds of neural language models of the lang folder to release as well, with the 2-gram for LODR.

    Raises:
      FileExistsError: there is a model of this name.
      FileNotFoundError: no such experiment or epoch, or the recipe's data or graph are missing.
      ValueError: a name that no folder can have, damaged files, or a lang folder with other units than in training.
    """
    require_name(folder.name)
    check_free(folder, marker=MANIFEST_FILE, overwrite=overwrite)
    config, model = load_experiment(exp_dir, selection)
    lang_dir = recipe_dir / config.data.lang_dir
    tokenizer = Tokenizer.load(lang_dir)
    refuse_other_units(exp_dir, tokenizer.pieces)
    tuned = values_of(read_tuned(exp_dir))
    own, *_ = resolved(
        DecodingConfig(decoding_method=cast(DecodingMethod, decoding_method)),
        vocab_size=config.model.vocab_size,
        tuned=tuned,
    )
    error_rates = read_error_rates(exp_dir, config, checkpoint=selection.name(exp_dir), first=settings(own))
    segment_seconds = usual_length(training_durations(config, recipe_dir=recipe_dir))
    manifest = describe(
        folder.name,
        config,
        decoding_method=decoding_method,
        decoding_options=tuned,
        error_rates=error_rates,
        segment_seconds=segment_seconds,
        begun_with=origins(config, recipe_dir),
    )
    bundle = Bundle(manifest, without_local_paths(config), model, tokenizer)
    example = choose_example(config, recipe_dir=recipe_dir)
    graph = graph_files(lang_dir, vocab_size=config.model.vocab_size) if with_graph else ()
    lms = lm_files(lang_dir, with_lm, tokenizer)
    bundle.save(folder, lang_dir=lang_dir, example=example, graph_files=graph, lm_files=lms, overwrite=overwrite)
    add(folder)


def without_local_paths(config: Config) -> Config:
    """The config with absolute paths cut to their last names, since they mean nothing on other machines."""
    data, training = config.data, config.training
    paths = {
        "manifest_dir": data.manifest_dir,
        "lang_dir": data.lang_dir,
        "noise_manifest": data.noise_manifest,
        "init_from": training.init_from,
        "teacher": training.teacher,
    }
    return replace_fields(config, {name: Path(path).name for name, path in paths.items() if Path(path).is_absolute()})


def graph_files(lang_dir: Path, *, vocab_size: int) -> tuple[str, ...]:
    """The files of a lang folder that make up its decoding graph, which must be up to date.

    Raises:
      FileNotFoundError: it has none.
      ValueError: it was built from other files.
    """
    topology = chosen_topology("auto", vocab_size)
    load_word_graph(lang_dir, topology)
    return (*WORD_FILES, graph_path(lang_dir, topology).name)


def lm_files(lang_dir: Path, kinds: Sequence[str], tokenizer: Tokenizer) -> tuple[str, ...]:
    """The files of a lang folder's neural language models of these kinds, and of its 2-gram if it has one.

    Raises:
      FileNotFoundError: it has none of a kind.
      ValueError: it is one for other units.
    """
    paths = [neural_lm_path(lang_dir, kind) for kind in dict.fromkeys(kinds)]
    for path in paths:
        load_neural_lm(path, tokenizer.pieces)
    low_order = token_ngram_path(lang_dir, LOW_ORDER)
    return tuple(path.name for path in (*paths, low_order) if kinds and path.is_file())


def training_durations(config: Config, *, recipe_dir: Path) -> list[float]:
    """Seconds of each utterance of the training set.

    Raises:
      FileNotFoundError: it has not been prepared.
    """
    path = cuts_path(recipe_dir / config.data.manifest_dir, config.data.train_split)
    return [cut.duration for cut in iterate_cut_file(path, recipe_dir=recipe_dir)]


def describe(name: str, config: Config, *, decoding_method: str = DEFAULT_SEARCH, **facts: Any) -> Manifest:
    """The manifest of a model of this config, with further facts."""
    total = count_parameters(config.model, num_mel_bins=config.features.num_mel_bins)["total"]
    parameters = {f"{kind}_parameters": count for kind, count in total._asdict().items()}
    data = {fact: getattr(config.data, fact) for fact in ("corpus", "language", "licence")}
    return Manifest(name, **data, **parameters, decoding_method=decoding_method, commit=package_commit(), **facts)


def read_error_rates(exp_dir: Path, config: Config, *, checkpoint: str, first: str) -> dict[str, dict[str, float]]:
    """WER in percent by test set and search, from ./decode.py's summaries for these checkpoints.

    Args:
      checkpoint: the selection's name, e.g. epoch-30-avg-9.
      first: the search that comes first.

    Raises:
      ValueError: a summary is damaged.
    """
    rates: dict[str, dict[str, float]] = {}
    for test_set in config.data.test_splits:
        common = f"{test_set}-{checkpoint}-"
        for path in sorted(exp_dir.glob(f"*/wer-summary-{common}*.txt")):
            for search, rate in _read_summary(path).items():
                if path.stem == f"wer-summary-{short_name(common + search)}":  # else of fewer layers
                    rates.setdefault(test_set, {})[search] = rate
    return {
        test_set: dict(sorted(found.items(), key=lambda item: item[0] != first)) for test_set, found in rates.items()
    }


def choose_example(config: Config, *, recipe_dir: Path) -> ExampleRecording:
    """The recording of the first test set whose duration is nearest to 3 s.

    Raises:
      FileNotFoundError: the test set has not been prepared.
      ValueError: its audio cannot be read.
    """
    split = config.data.test_splits[0]
    cuts = read_cuts(recipe_dir / config.data.manifest_dir, split, recipe_dir=recipe_dir)
    cut = min(cuts, key=lambda cut: (abs(cut.duration - EXAMPLE_SECONDS), cut.id))
    try:
        samples = cut.load_audio().mean(axis=0)
    except Exception as error:  # Lhotse tries many readers, which raise many kinds
        raise ValueError(
            f"the audio of test cut {cut.id} cannot be read ({first_line(error)}): run ./prepare.sh again"
        ) from error
    reference = " ".join(supervision.text for supervision in cut.supervisions)
    return ExampleRecording(np.asarray(samples, dtype=np.float32), cut.sampling_rate, reference)


def _read_summary(path: Path) -> dict[str, float]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        return {row["settings"]: float(row["WER"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a summary of error rates: run ./decode.py again") from error


def _parser(configs: Mapping[str, Config]) -> argparse.ArgumentParser:
    parser = Parser(description="Release a trained model: write its bundle into a zoo.")
    add_config_flag(parser, configs, "named config, whose experiment is exp/<config>")
    parser.add_argument("--exp-dir", type=Path, help="experiment that ./train.py wrote [exp/<config>]")
    parser.add_argument("--zoo-dir", type=Path, default=Path("zoo"), help="folder of released models [zoo]")
    parser.add_argument("--name", required=True, help="the model's name in the zoo, e.g. asterisk-base")
    parser.add_argument(
        "--decoding-method",
        choices=[n for n, m in METHODS.items() if n == "1best" or (not m.engines and m.uses in ((), ("hotwords",)))],
        default=DEFAULT_SEARCH,
        help=f"default search of the released model; 1best also needs --with-graph [{DEFAULT_SEARCH}]",
    )
    parser.add_argument(
        "--with-graph",
        action="store_true",
        help="also release the decoding graph over words (HLG, its lexicon and its n-gram)",
    )
    parser.add_argument(
        "--with-lm",
        choices=get_args(NeuralLmType),
        nargs="+",
        default=[],
        help="also release neural language models of ./train_lm.py, and the 2-gram for LODR; the onnx forms include "
        "them [none]",
    )
    parser.add_argument(
        "--to",
        choices=FORMS,
        nargs="+",
        default=[],
        help=f"also write the model in other forms; {FORMS_HELP} [none]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model of this name, and its other forms")
    add_flags(parser, Selection)
    add_flags(parser, StreamingForm)
    return parser


def _export(args: argparse.Namespace, *, exp_dir: Path, recipe_dir: Path) -> None:
    tune_cpu()
    require_name(args.name)
    folder = args.zoo_dir / args.name
    selection, streaming = apply_flags(Selection(), args), apply_flags(StreamingForm(), args)
    refuse_unused_chunks(streaming, args.to)
    require(
        args.with_graph or args.decoding_method != "1best",
        "--decoding-method 1best searches a decoding graph: give --with-graph as well",
    )
    forms = {form: target_of(form, folder) for form in args.to}
    for target in forms.values() if not args.overwrite else ():
        check_free(target, marker="")
    export(
        folder,
        exp_dir=exp_dir,
        recipe_dir=recipe_dir,
        selection=selection,
        decoding_method=args.decoding_method,
        with_graph=args.with_graph,
        with_lm=args.with_lm,
        overwrite=args.overwrite,
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"released {folder} ({size / 1e6:.1f} MB) from {selection.name(exp_dir)}")
    sizes = [(name, (folder / name).stat().st_size / 1e6) for name in GRAPH_FILES if (folder / name).is_file()]
    if sizes:
        print(f"with a decoding graph: {', '.join(f'{name} ({size:.2f} MB)' for name, size in sizes)}")
    tuned = read_tuned(exp_dir)
    searches = [search_named(name) for name in tuned]
    if note := tuned_note(searches, tuned, checkpoint=selection.name(exp_dir)):
        print(f"with {note}")
    for form, target in forms.items():
        print("\n".join(write_form(form, folder, target, streaming=streaming, overwrite=args.overwrite)))
    print((folder / TEST_TEXT).read_text(encoding="utf-8"), end="")
    print(f"try: python -m shared_moe_conformer.transcribe --model {folder} {folder / 'test.wav'}")
