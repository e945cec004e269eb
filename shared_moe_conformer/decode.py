"""The verb that decodes test sets: searches with a trained model, error rates, and their files."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.cli import Parser, add_config_flag, add_flags, add_layers_flag, apply_flags, run_main
from shared_moe_conformer.config import Config, replace_fields, require, to_dict
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.distortions import kinds_help, parse_distortion
from shared_moe_conformer.data.tokenizer import Tokenizer, refuse_other_units
from shared_moe_conformer.decoding import comparison, scoring, searches, tuned_values
from shared_moe_conformer.decoding.comparison import MethodResult, decode_batches
from shared_moe_conformer.decoding.methods import METHODS, label, settings
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.tuning import Searcher, encode_split, require_not_test, tune, worth_tuning
from shared_moe_conformer.device import add_device_flag, choose_device, limit_threads, tune_cpu
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.params import counts_of
from shared_moe_conformer.pretrained import load_experiment
from shared_moe_conformer.release.manifest import package_commit
from shared_moe_conformer.speech.transcript import FORMATS, Result, transcript_of, write_results
from shared_moe_conformer.text import words_of
from shared_moe_conformer.training.averaging import Selection
from shared_moe_conformer.training.folder import log_environment, logged, logger


def main(configs: Mapping[str, Config], *, recipe_dir: Path, arguments: Sequence[str] | None = None) -> None:
    """The command line of a recipe's decode.py."""
    args = _parser(configs).parse_args(arguments)
    exp_dir = args.exp_dir or recipe_dir / "exp" / args.config
    verb = _decode if args.tune is None else _tune
    run_main(lambda: verb(args, exp_dir=exp_dir, recipe_dir=recipe_dir))


def write_scores(result: MethodResult, exp_dir: Path, *, test_set: str, checkpoint: str) -> tuple[scoring.Scores, Path]:
    """Score a result and write its files into the experiment's folder of the method; also return the summary's path.

    Args:
      checkpoint: the name of the weights, as file names give it.

    Raises:
      ValueError: no transcript has a word.
    """
    method = result.config.decoding_method
    scores = scoring.Scores(
        test_set,
        label(result.config),
        settings(result.config),
        scoring.word_error_rate(result.decoded),
        scoring.character_error_rate(result.decoded),
        result.real_time_factor,
        METHODS[method].is_oracle,
    )
    suffix = f"{checkpoint}-{scores.settings}"
    *_, summary = scoring.write_files(result.decoded, scores, exp_dir / method, suffix=suffix)
    return scores, summary


def _parser(configs: Mapping[str, Config]) -> argparse.ArgumentParser:
    parser = Parser(description="Decode the test sets with a trained model and score the result.")
    add_config_flag(parser, configs, "named config, whose experiment is exp/<config>")
    parser.add_argument("--exp-dir", type=Path, help="experiment that ./train.py wrote [exp/<config>]")
    parser.add_argument("--max-duration", type=float, default=argparse.SUPPRESS,
                        help="audio in a batch, in seconds; changes no result [as in training]")  # fmt: skip
    parser.add_argument("--num-workers", type=int, default=argparse.SUPPRESS,
                        help="processes that load batches [as in training]")  # fmt: skip
    parser.add_argument("--test-splits", type=lambda text: tuple(text.split(",")), default=argparse.SUPPRESS,
                        metavar="A,B,..", help="cut sets to decode, such as dev,test [as in training]")  # fmt: skip
    add_layers_flag(parser)
    parser.add_argument("--output-format", choices=FORMATS, action="append", default=[],
                        help="also write hyps- files: text; ctm, one line per word with its time and "
                        "confidence; jsonl, with tokens; may be repeated [none]")  # fmt: skip
    parser.add_argument("--distort", nargs="+", default=[], metavar="KIND=VALUE",
                        help="also decode distorted copies of the test sets, one for each of these, from recordings, "
                        "and compare; a+b: a, then b. " + kinds_help().replace("%", "%%"))  # fmt: skip
    parser.add_argument("--tune", metavar="SPLIT",
                        help="find the scales, penalties and beam sizes of --decoding-method (or of all) with the "
                        "lowest WER on this split, dev and never test, and write them into the experiment's "
                        "decoding.json, where ./decode.py and ./export.py find them; options that are given keep "
                        "their values [none]")  # fmt: skip
    add_device_flag(parser)
    add_flags(parser, Selection)
    add_flags(parser, DecodingConfig)
    return parser


def _decode(args: argparse.Namespace, *, exp_dir: Path, recipe_dir: Path) -> None:
    tune_cpu()
    device, selection = choose_device(args.device), apply_flags(Selection(), args)
    config, model, checkpoint = _load_model(args, selection, exp_dir, device)
    tokenizer = _load_tokenizer(config, exp_dir, recipe_dir)
    decoding = apply_flags(DecodingConfig(), args)
    tuned = tuned_values.read_tuned(exp_dir)
    values = tuned_values.not_given(tuned_values.values_of(tuned), vars(args))
    methods, resources, left_out = _load_methods(decoding, config, recipe_dir, tokenizer, tuned=values)
    data, distortions = AsrDataModule(config, recipe_dir, tokenizer), [parse_distortion(text) for text in args.distort]
    loaders = data.test_loaders() | data.distorted_loaders(distortions)
    with logged(exp_dir, "decode", console=sys.stdout):
        logger.debug("config: %s", json.dumps(to_dict(config)))
        logger.debug("options: %s, %s", selection, decoding)
        log_environment(device, commit=package_commit())
        if note := tuned_values.tuned_note(methods, tuned, given=vars(args), checkpoint=checkpoint):
            logger.info("with %s; an option that is given wins", note)
        scores_of: dict[str, list[scoring.Scores]] = {}
        for test_set, loader in loaders.items():
            batches = tqdm(loader, desc=f"decoding {test_set}", unit="batch")
            results = decode_batches(model, batches, methods, to_text=tokenizer.decode, resources=resources)
            scores = [_scored(result, exp_dir, test_set=test_set, checkpoint=checkpoint) for result in results]
            scores_of[test_set] = scores
            transcripts = [_with_times(result, tokenizer) for result in results]
            for result, found in zip(results, transcripts):
                folder = exp_dir / result.config.decoding_method
                name = scoring.short_name(f"{test_set}-{checkpoint}-{settings(result.config)}")
                for output_format in args.output_format:
                    write_results(found, folder, name=name, output_format=output_format)
            if len(results) > 1:
                one_method = "" if decoding.decoding_method == "all" else f"-{decoding.decoding_method}"
                _compare(results, scores, transcripts, exp_dir, left_out=left_out, searched=checkpoint + one_method)
        for test_set in config.data.test_splits if distortions else ():
            distorted = [scores_of[f"{test_set}-{distortion.name}"] for distortion in distortions]
            _compare_distortions(scores_of[test_set], distorted, exp_dir, checkpoint=checkpoint)


def _load_model(
    args: argparse.Namespace, selection: Selection, exp_dir: Path, device: torch.device
) -> tuple[Config, AsrModel, str]:
    """The config with the flags' values, the model with the layers that compute, and its name in results."""
    trained_as, model = load_experiment(exp_dir, selection)
    limit_threads(counts_of(model)["total"].active)
    model.to(device).encoder.use_layers(args.num_layers)
    model.encoder.merge_once()
    layers = f"-{args.num_layers}-layers" if args.num_layers else ""
    return apply_flags(trained_as, args), model, selection.name(exp_dir) + layers


def _tune(args: argparse.Namespace, *, exp_dir: Path, recipe_dir: Path) -> None:
    """Find the best values of each method on a split, and write them method by method."""
    tune_cpu()
    require_not_test(args.tune)
    for name in ("distort", "output_format", "test_splits"):
        flag = tuned_values.flag(name)
        unused = f"--tune with --{flag}: values are tuned on one split as it is; leave one of them out"
        require(not getattr(args, name, ()), unused)
    device, selection = choose_device(args.device), apply_flags(Selection(), args)
    config, model, checkpoint = _load_model(args, selection, exp_dir, device)
    config = replace_fields(config, {"test_splits": (args.tune,)})
    tuned_values.read_tuned(exp_dir)  # a damaged file is refused before the work
    tokenizer = _load_tokenizer(config, exp_dir, recipe_dir)
    decoding = apply_flags(DecodingConfig(), args)
    methods, resources, left_out = _load_methods(decoding, config, recipe_dir, tokenizer)
    methods = worth_tuning(methods, vars(args))
    (loader,) = AsrDataModule(config, recipe_dir, tokenizer).test_loaders().values()
    with logged(exp_dir, "tune", console=sys.stdout):
        logger.debug("options: %s, %s", selection, decoding)
        log_environment(device, commit=package_commit())
        encoded = encode_split(model, tqdm(loader, desc=f"encoding {args.tune}", unit="batch"), decoding)
        logger.info("tuning on %s, %d words, with %s", args.tune, encoded.num_words, checkpoint)
        searcher = Searcher(model, encoded, tokenizer.decode, resources)
        for found in tune(methods, searcher, given=vars(args)):
            rates = round(found.wer, 2), round(found.default_wer, 2)
            best = tuned_values.Tuned(dict(found.best), args.tune, checkpoint, *rates)
            tuned = tuned_values.read_tuned(exp_dir) | {found.method: best}  # others may have tuned methods meanwhile
            logger.info("\n%s\nwrote %s", found.table, tuned_values.write_tuned(exp_dir, tuned))
        for name, why in left_out.items():
            logger.info("left out: %s: %s", name, why)


def _load_tokenizer(config: Config, exp_dir: Path, recipe_dir: Path) -> Tokenizer:
    tokenizer = Tokenizer.load(recipe_dir / config.data.lang_dir)
    require(
        tokenizer.vocab_size == config.model.vocab_size,
        f"{config.data.lang_dir} has {tokenizer.vocab_size} units and the model {config.model.vocab_size}: "
        "decode with the tokenizer that the model was trained with",
    )
    refuse_other_units(exp_dir, tokenizer.pieces)
    return tokenizer


def _load_methods(
    decoding: DecodingConfig,
    config: Config,
    recipe_dir: Path,
    tokenizer: Tokenizer,
    *,
    tuned: Mapping[str, tuned_values.Values] = tuned_values.NO_VALUES,
) -> searches.Loaded:
    """The searches that were asked for and their resources; "all" leaves out what cannot run here."""
    methods = searches.resolved(decoding, vocab_size=config.model.vocab_size, tuned=tuned)
    loaded = searches.load_resources(methods, recipe_dir / config.data.lang_dir, tokenizer)
    if decoding.decoding_method != "all":
        return loaded
    why = "needs k2" if decoding.lattice_engine == "embedded" else "k2 is not installed"
    needing_k2 = sorted(METHODS.keys() - {method.decoding_method for method in methods})
    return loaded._replace(left_out=loaded.left_out | dict.fromkeys(needing_k2, why))


def _with_times(result: MethodResult, tokenizer: Tokenizer) -> list[Result]:
    """The utterances with the times and confidences of their words."""
    transcript = functools.partial(transcript_of, pieces=tokenizer.pieces, decode=tokenizer.decode)
    return [
        Result(decoded.cut_id, decoded.ref, transcript([(0.0, hyp)]))
        for decoded, hyp in zip(result.decoded, result.hyps, strict=True)
    ]


def _compare(
    results: Sequence[MethodResult],
    scores: Sequence[scoring.Scores],
    transcripts: Sequence[Sequence[Result]],
    exp_dir: Path,
    *,
    left_out: Mapping[str, str],
    searched: str,
) -> None:
    """Write tables of several methods and of their confidences on one test set.

    Args:
      searched: the checkpoint, and the method if only one was asked for, for file names.
    """
    test_set = scores[0].test_set
    name, title = f"{test_set}-{searched}", f"{test_set}, {searched}"
    agreement = comparison.agreement_note({result.config: result.hyps for result in results})
    table = comparison.comparison_text(scores, title=title, left_out=left_out, agreement=agreement)
    judged = {comparison.name_of(score): _judged(found) for score, found in zip(scores, transcripts)}
    texts = {"comparison": table, "confidences": comparison.calibration_text(judged, title=title)}
    for kind, text in texts.items():
        write_whole(exp_dir / f"{kind}-{name}.txt", text)
    logger.info("\n%s\nwrote %s", table, f"{exp_dir}/comparison-{name}.txt and confidences-{name}.txt")


def _compare_distortions(
    clean: Sequence[scoring.Scores], distorted: Sequence[Sequence[scoring.Scores]], exp_dir: Path, *, checkpoint: str
) -> None:
    """Write the table of one test set; the name has the method's options if there is only one method."""
    searched = f"-{clean[0].settings}" if len(clean) == 1 else ""
    path = exp_dir / f"{scoring.short_name(f'distortions-{clean[0].test_set}-{checkpoint}{searched}')}.txt"
    table = comparison.distortion_table(clean, distorted)
    write_whole(path, table)
    logger.info("\n%s\nwrote %s", table, path)


def _judged(found: Sequence[Result]) -> list[comparison.Judged]:
    words = [(words_of(result.ref), [(w.text, w.confidence) for w in result.transcript.words]) for result in found]
    return [word for ref, hyp in words for word in comparison.judged_words(ref, hyp)]


def _scored(result: MethodResult, exp_dir: Path, *, test_set: str, checkpoint: str) -> scoring.Scores:
    scores, summary = write_scores(result, exp_dir, test_set=test_set, checkpoint=checkpoint)
    logger.info("%s\nwrote %s and its recogs- and errs-", scores, summary)
    return scores
