"""The verb, from an experiment's folder to the files of results; the batches are made up here."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from lhotse import CutSet

from shared_moe_conformer import decode
from shared_moe_conformer.config import Config, FeatureConfig, load_config, replace_fields, save_config
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.distortions import Distortion
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.tokenizer import Tokenizer, save_units, train_tokenizer
from shared_moe_conformer.decoding.methods import METHODS, label, settings
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.searches import resolved
from shared_moe_conformer.decoding.tuned_values import TUNED_FILE, Tuned, read_tuned, write_tuned
from shared_moe_conformer.decoding.tuning import Searcher
from shared_moe_conformer.lattice.decoding_graph import Lexicon
from shared_moe_conformer.lattice.ngram import train_ngram
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.folder import epoch_path, save_checkpoint
from tests.data.conftest import noise_cut

SEARCHES = [c for c in resolved(DecodingConfig(decoding_method="all"), vocab_size=7) if "LG" not in label(c)]
"""What can run here; the recipe has no graph over words."""


class OneUtterancePerBatch:
    """Stands in for the data module: two test sets of random features."""

    size = 1

    def __init__(self, config: Config, recipe_dir: Path, tokenizer: object) -> None:
        generator = torch.Generator().manual_seed(0)
        lens = [93, 40, 61, 77]
        self.cuts = [(f"cut-{n}", torch.randn(n, 80, generator=generator), "ONE TWO") for n in lens]

    def test_loaders(self) -> dict[str, list[AsrBatch]]:
        groups = [self.cuts[i : i + self.size] for i in range(0, len(self.cuts), self.size)]
        return {"clean": [_batch(group) for group in groups]}

    def distorted_loaders(self, distortions: Sequence[Distortion]) -> dict[str, list[AsrBatch]]:
        assert not distortions
        return {}


class AllInOneBatch(OneUtterancePerBatch):
    size = 4


def _batch(cuts: list[tuple[str, torch.Tensor, str]]) -> AsrBatch:
    ids, features, texts = map(list, zip(*cuts))
    x = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    lens = torch.tensor([len(f) for f in features])
    y = torch.ones(len(cuts), 2, dtype=torch.int64)
    return AsrBatch(x, lens, y, torch.full((len(cuts),), 2), ids, texts)


@pytest.fixture
def recipe(tmp_path: Path, lang_dir: Path, tiny_bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's folder with an experiment of three epochs."""
    (tmp_path / "data").mkdir()
    shutil.copytree(lang_dir, tmp_path / "data" / "lang")
    for order in (2, 3):
        pieces = Tokenizer.load(lang_dir).pieces
        train_ngram([pieces[3:9]], order, vocabulary=pieces[1:]).save(
            tmp_path / "data/lang" / f"token_{order}gram.arpa"
        )
    exp_dir = tmp_path / "exp" / "base"
    exp_dir.mkdir(parents=True)
    config = replace_fields(tiny_bundle.config, {"lang_dir": "data/lang"})
    save_config(config, exp_dir / "config.json")
    for epoch in (1, 2, 3):
        save_checkpoint(epoch_path(exp_dir, epoch), {"model": tiny_bundle.model.state_dict()})
    monkeypatch.setattr(decode, "AsrDataModule", OneUtterancePerBatch)
    return tmp_path


def run(recipe: Path, *arguments: str) -> None:
    decode.main({"base": Config(), "full": Config()}, recipe_dir=recipe, arguments=arguments)


def test_all_methods_write_their_files_and_a_table(recipe: Path, capsys) -> None:
    run(recipe, "--decoding-method", "all", "--epoch", "3", "--avg", "2")
    exp_dir = recipe / "exp" / "base"
    for config in SEARCHES:
        names = {path.name for path in (exp_dir / config.decoding_method).iterdir()}
        searched = f"-clean-epoch-3-avg-2-{settings(config)}.txt"
        before = "oracle-" if METHODS[config.decoding_method].is_oracle else ""
        assert {f"{before}{kind}{searched}" for kind in ("errs", "recogs", "wer-summary")} <= names
    table = (exp_dir / "comparison-clean-epoch-3-avg-2.txt").read_text()
    assert all(f"\n{label(config)} " in table for config in SEARCHES)
    assert "left out: 1best over HLG" in table and "no graph over words in" in table
    assert table in capsys.readouterr().out
    assert ("k2 and embedded, " in table) == bool(importlib.util.find_spec("k2"))
    confidences = (exp_dir / "confidences-clean-epoch-3-avg-2.txt").read_text()
    assert "\ngreedy_search " in confidences and " % of " in confidences


def test_on_a_full_disk_no_result_is_half_written(
    recipe: Path, small_disk: Path, fill: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, exp_dir = recipe / "exp/base", small_disk / "exp"
    shutil.copytree(whole, exp_dir)
    options = ("--decoding-method", "greedy_search", "--output-format", "ctm")
    run(recipe, *options)
    pages = 0
    while True:
        fill(pages)
        try:
            run(recipe, *options, "--exp-dir", str(exp_dir))
            break
        except SystemExit as stop:
            assert stop.code == 1
        shown = capsys.readouterr().err
        told = shown.splitlines()[-1]
        assert "Traceback" not in shown
        assert "No space left on device: " in told and told.endswith(": make room there, then run this again")
        for path in (path for path in exp_dir.rglob("*-clean-*") if not path.name.startswith("wer-summary")):
            assert path.read_bytes() == (whole / path.relative_to(exp_dir)).read_bytes()
        pages += 2
    assert pages >= 4
    assert {p.name for p in exp_dir.rglob("*-clean-*")} == {p.name for p in whole.rglob("*-clean-*")}


def test_what_needs_an_engine_that_was_not_chosen_is_left_out_for_that(recipe: Path) -> None:
    run(recipe, "--decoding-method", "all", "--lattice-engine", "embedded")
    table = (recipe / "exp/base/comparison-clean-epoch-3-avg-1.txt").read_text()
    assert "left out: fast_beam_search_nbest: needs k2\n" in table and "(k2)" not in table


def test_results_do_not_depend_on_the_batches(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_recogs() -> list[str]:
        run(recipe, "--decoding-method", "all")
        return [path.read_text() for path in sorted((recipe / "exp" / "base").glob("*/*recogs-*"))]

    one_by_one = all_recogs()
    monkeypatch.setattr(decode, "AsrDataModule", AllInOneBatch)
    assert all_recogs() == one_by_one
    assert len(one_by_one) == len(SEARCHES)
    assert any("hyp=['" in text for text in one_by_one), "the model must say something"


def test_distorted_test_sets_have_files_of_their_own_and_a_table(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(decode, "AsrDataModule", AsrDataModule)
    monkeypatch.chdir(recipe)
    cuts = [noise_cut(Path("audio"), f"cut-{i}", "ONE TWO", duration=0.6 + 0.1 * i) for i in range(3)]
    store_features(CutSet.from_cuts(cuts), "test", directory=Path("data/fbank"), config=FeatureConfig(), exact=True)
    run(recipe, "--distort", "gain=0", "babble=-5", "reverb=0.3+opus=12k")
    folder, found = recipe / "exp/base/greedy_search", "epoch-3-avg-1-greedy_search"
    names = ["test", "test-gain=0", "test-babble=-5", "test-reverb=0.3+opus=12k"]
    files = {f"{kind}-{n}-{found}-" for n in names for kind in ("recogs", "errs", "wer-summary")}
    written = {path.name for path in folder.iterdir()}
    assert len(written) == 12 and {name.split("max-sym")[0] for name in written} == files
    clean, same, noisy, _ = ((next(folder.glob(f"recogs-{name}-epoch*"))).read_text() for name in names)
    assert clean == same != noisy
    (path,) = (recipe / "exp/base").glob(f"distortions-test-{found}-*.txt")
    rows = [line.split(" |")[0] for line in path.read_text().splitlines()[2:]]
    assert rows == ["| clean", "| gain=0", "| babble=-5", "| reverb=0.3+opus=12k"]
    assert path.read_text() in capsys.readouterr().out


class TooShort(OneUtterancePerBatch):
    """Six frames of features, which give no frame of the encoder."""

    size = 2

    def __init__(self, config: Config, recipe_dir: Path, tokenizer: object) -> None:
        super().__init__(config, recipe_dir, tokenizer)
        self.cuts = [self.cuts[0], ("too-short", self.cuts[0][1][:6], "ONE")]


def test_an_utterance_too_short_for_a_frame_is_recognised_as_nothing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "AsrDataModule", TooShort)
    run(recipe, "--decoding-method", "all", "--output-format", "ctm")
    recogs = [path.read_text() for path in (recipe / "exp/base").glob("*/*recogs-*")]
    assert len(recogs) == len(SEARCHES)
    assert all("too-short:\thyp=[]\n" in text and "cut-93:\thyp=[" in text for text in recogs)


def test_newest_epoch_is_the_default_and_options_stand_in_the_names(recipe: Path) -> None:
    run(recipe, "--decoding-method", "modified_beam_search", "--beam-size", "2")
    folder = recipe / "exp" / "base" / "modified_beam_search"
    assert (folder / "wer-summary-clean-epoch-3-avg-1-modified_beam_search-beam-size-2.txt").is_file()
    assert not list((recipe / "exp" / "base").glob("comparison-*")), "there is nothing to compare"


def test_a_model_of_several_depths_decodes_with_fewer_layers_into_files_of_their_own(recipe: Path) -> None:
    exp_dir = recipe / "exp/base"
    elastic = {"experts_in": "none", "group_sizes": (4,), "depths": (2, 4)}
    config = replace_fields(load_config(exp_dir / "config.json"), elastic)
    save_config(config, exp_dir / "config.json")
    save_checkpoint(epoch_path(exp_dir, 3), {"model": AsrModel(config.model).state_dict()})
    run(recipe, "--decoding-method", "ctc_greedy_search", "--num-layers", "2")
    run(recipe, "--decoding-method", "ctc_greedy_search")
    names = sorted(path.name for path in (exp_dir / "ctc_greedy_search").glob("recogs-*"))
    assert names == [f"recogs-clean-epoch-3-avg-1{n}-ctc_greedy_search.txt" for n in ("-2-layers", "")]
    with pytest.raises(SystemExit):
        run(recipe, "--num-layers", "5")


def test_a_log_keeps_what_was_shown_and_with_what_it_was_computed(recipe: Path, capsys) -> None:
    run(recipe, "--decoding-method", "ctc_greedy_search", "--device", "cpu")
    shown = capsys.readouterr().out
    (log,) = (recipe / "exp/base/log").glob("decode-log-*.txt")
    assert shown.startswith("clean, ctc_greedy_search") and shown in log.read_text()
    assert "decoding_method='ctc_greedy_search'" in log.read_text() and '"device": "cpu"' in log.read_text()


def test_a_log_says_why_a_decoding_ended(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "decode_batches", lambda *args, **kwargs: [][0])
    with pytest.raises(IndexError):
        run(recipe)
    (log,) = (recipe / "exp/base/log").iterdir()
    assert log.read_text().endswith("DEBUG stopped: IndexError: list index out of range\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "full"], "train first"),
        (["--epoch", "9"], "epoch-9.pt"),
        (["--epoch", "2", "--avg", "3"], "--avg"),
        (["--beam-size", "0"], "beam_size is 0: give 1 or more"),
        (["--left-context-frames", "32"], "--left-context-frames does nothing without --chunk-size: leave it out"),
        (["--distort", "white=10", "loud=3"], "--distort loud=3: no distortion is called 'loud': give one of gain, "),
        (["--distort", "opus=fast"], "--distort opus=fast: opus is 'fast': give 6000 to 256000 bit/s"),
        (["--num-layers", "2"], "the model was trained only at its whole depth (--depths)"),
        (["--device", "cuda:63"], "--device cuda:63 cannot be used here"),
    ],
)
def test_mistakes_end_with_one_line(recipe: Path, capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(recipe, *arguments)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 1
    assert len(error) == 1 and message in error[0]
    assert not (recipe / "exp" / "base" / "log").exists()


def test_words_have_times_and_confidences_in_other_formats(recipe: Path) -> None:
    formats = ("--output-format", "ctm", "--output-format", "jsonl")
    run(recipe, "--decoding-method", "ctc_prefix_beam_search", *formats)
    (ctm,), (jsonl,) = (
        (recipe / "exp/base/ctc_prefix_beam_search").glob(f"hyps-*.{kind}") for kind in ("ctm", "jsonl")
    )
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    words = [(record["id"], word) for record in records for word in record["words"]]
    rows = [line.split() for line in ctm.read_text().splitlines()]
    assert len(records) == 4 and words
    assert [(cut_id, word["text"], f"{word['confidence']:.2f}") for cut_id, word in words] == [
        (row[0], row[4], row[5]) for row in rows
    ]
    (recogs,) = (recipe / "exp/base/ctc_prefix_beam_search").glob("recogs-*")
    assert recogs.name.removeprefix("recogs-") == jsonl.name.removeprefix("hyps-").replace(".jsonl", ".txt")


@pytest.mark.parametrize("phrases", ["FOUR\n", "two"])
def test_hotwords_change_a_recognition_and_must_be_spelled(recipe: Path, capsys, phrases: str) -> None:
    (recipe / "names.txt").write_text(phrases)
    arguments = ("--decoding-method", "modified_beam_search", "--hotwords-file", str(recipe / "names.txt"))
    if phrases.islower():
        with pytest.raises(SystemExit):
            run(recipe, *arguments)
        assert "error: the hotword 'two' has 'o', 't', 'w', which no unit" in capsys.readouterr().err
        return
    run(recipe, *arguments, "--beam-size", "8", "--hotwords-score", "60")
    (recogs,) = (recipe / "exp/base/modified_beam_search").glob("recogs-*-hotwords-score-60.0-hotwords-file-names.txt")
    assert "FOUR" in recogs.read_text()


def test_a_language_model_that_is_missing_is_named_with_the_command_that_makes_it(recipe: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run(recipe, "--decoding-method", "modified_beam_search_lm_shallow_fusion", "--lm-order", "4")
    assert "run local/train_ngram.py --unit token --order 4 --lang-dir" in capsys.readouterr().err


def test_an_experiment_without_checkpoints_is_named(recipe: Path, capsys) -> None:
    for path in (recipe / "exp" / "base").glob("epoch-*.pt"):
        path.unlink()
    with pytest.raises(SystemExit):
        run(recipe)
    assert "train first" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(recipe: Path, capsys) -> None:
    shutil.rmtree(recipe / "data" / "lang")
    train_tokenizer(["ONE TWO THREE"], recipe / "data" / "lang", 15)
    with pytest.raises(SystemExit):
        run(recipe)
    assert "15 units" in capsys.readouterr().err


def test_a_tokenizer_that_was_made_again_is_refused(recipe: Path, capsys) -> None:
    pieces = Tokenizer.load(recipe / "data" / "lang").pieces
    save_units(recipe / "exp/base", pieces)
    run(recipe)
    save_units(recipe / "exp/base", [*pieces[:-1], "OTHER"])
    with pytest.raises(SystemExit):
        run(recipe)
    assert "was trained with other units" in capsys.readouterr().err


def test_an_unknown_method_is_refused_with_the_choices(recipe: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(recipe, "--decoding-method", "magic")
    assert stopped.value.code != 0
    error = capsys.readouterr().err
    assert all(method in error for method in METHODS)


def make_word_graph(lang: Path) -> list[str]:
    """Make a lang folder's lexicon, n-gram and HLG over two words, which are returned."""
    from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE, build_word_graph

    tokenizer, words = Tokenizer.load(lang), ["ONE", "TWO"]
    Lexicon(tokenizer.pieces, dict(zip(words, tokenizer.encode(words)))).save(lang)
    train_ngram([words], 2).save(lang / NGRAM_FILE)
    build_word_graph(lang, "standard")
    return words


def test_each_scale_of_a_rescoring_has_files_of_its_own(recipe: Path, capsys) -> None:
    lang = recipe / "data" / "lang"
    words = make_word_graph(lang)
    arguments = ("--decoding-method", "nbest-rescoring", "--lm-scales", "0.0,0.5,9.0")
    with pytest.raises(SystemExit):
        run(recipe, *arguments)
    assert "local/train_ngram.py --order 4 --name G_4_gram.arpa" in capsys.readouterr().err
    train_ngram([words, words[::-1]], 4).save(lang / "G_4_gram.arpa")
    run(recipe, *arguments)
    names = sorted(path.name for path in (recipe / "exp/base/nbest_rescoring").iterdir())
    assert [sum(f"-lm-scale-{scale}.txt" in name for name in names) for scale in (0.0, 0.5, 9.0)] == [3, 3, 3]
    assert len(names) == 9
    text = (recipe / "exp/base/comparison-clean-epoch-3-avg-1-nbest_rescoring.txt").read_text()
    assert "left out" not in text and text.startswith("clean, epoch-3-avg-1-nbest_rescoring\n")
    assert all(f" at {scale} " in text for scale in (0.0, 0.5, 9.0))
    train_ngram([["ONE"]], 2).save(lang / "G_4_gram.arpa")
    with pytest.raises(SystemExit):
        run(recipe, "--decoding-method", "whole_lattice_rescoring")
    assert "the n-gram lacks 1 word of the graph, 'TWO'" in capsys.readouterr().err


def test_over_words_the_lang_folders_graph_is_searched(recipe: Path, capsys) -> None:
    lang = recipe / "data" / "lang"
    arguments = ("--decoding-method", "1best", "--graph", "HLG")
    with pytest.raises(SystemExit):
        run(recipe, *arguments)
    assert "no graph over words in" in capsys.readouterr().err
    words = make_word_graph(lang)
    run(recipe, *arguments, "--output-format", "ctm")
    (recogs,) = (recipe / "exp/base/1best").glob("recogs-*-1best-graph-HLG-hlg-scale-1.0-*")
    hyps = [line.split("hyp=")[1] for line in recogs.read_text().splitlines() if "hyp=" in line]
    assert len(hyps) == 4 and {word for hyp in hyps for word in ast.literal_eval(hyp)} <= set(words)
    (ctm,) = (recipe / "exp/base/1best").glob("hyps-*.ctm")
    rows = [line.split() for line in ctm.read_text().splitlines() if not line.startswith(";;")]
    assert [row[4] for row in rows] == [word for hyp in sorted_hyps(recogs) for word in hyp]
    assert all(0 < float(row[5]) <= 1 for row in rows), "the lattice says how sure it is of each word"


def sorted_hyps(recogs: Path) -> list[list[str]]:
    """The hypotheses of a file, in the order of their ids."""
    lines = [line.split(":\thyp=") for line in recogs.read_text().splitlines() if "hyp=" in line]
    return [ast.literal_eval(hyp) for _, hyp in sorted(lines)]


def tuned_file(recipe: Path) -> Path:
    return recipe / "exp/base" / TUNED_FILE


def write_greedy(recipe: Path, *, checkpoint: str = "epoch-3-avg-1") -> None:
    write_tuned(recipe / "exp/base", {"greedy_search": Tuned({"blank_penalty": 2.0}, "dev", checkpoint, 10.0, 20.0)})


def test_tuning_writes_the_winner_and_what_was_tried(recipe: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    penalties = {0.0: 5, 1.0: 3, 1.5: 3}
    monkeypatch.setattr(
        Searcher, "num_errors", lambda self, configs: [penalties.get(c.blank_penalty, 4) for c in configs]
    )
    run(recipe, "--tune", "dev", "--epoch", "3", "--avg", "2", "--decoding-method", "greedy_search")
    expected = Tuned({"blank_penalty": 1.0}, "dev", "epoch-3-avg-2", 37.5, 62.5)
    assert read_tuned(recipe / "exp/base") == {"greedy_search": expected}
    shown = capsys.readouterr().out
    assert "tuning on dev, 8 words, with epoch-3-avg-2" in shown and f"wrote {tuned_file(recipe)}" in shown
    assert "               1     37.50  best\n" in shown and "               0     62.50  defaults\n" in shown
    assert not list((recipe / "exp/base").glob("*/recogs-*")), "nothing is decoded yet"


def test_all_methods_are_tuned_as_far_as_they_can_run(recipe: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tuned(recipe / "exp/base", {"1best": Tuned({"hlg_scale": 0.3}, "dev", "best", 1.0, 2.0)})

    def errors_while_another_process_tunes(self: Searcher, configs: list[DecodingConfig]) -> list[int]:
        by_other = {"1best:H": Tuned({"hlg_scale": 1.0}, "dev", "other", 1.0, 2.0)}
        write_tuned(recipe / "exp/base", read_tuned(recipe / "exp/base") | by_other)
        return [3 for _ in configs]

    monkeypatch.setattr(Searcher, "num_errors", errors_while_another_process_tunes)
    run(recipe, "--tune", "dev", "--decoding-method", "all")
    found = read_tuned(recipe / "exp/base")
    assert {"greedy_search", "modified_beam_search", "modified_beam_search_LODR", "1best"} <= found.keys()
    assert found["1best"].checkpoint == "best", "what cannot run here keeps its values"
    assert found["1best:H"].checkpoint == "other", "so do searches that another process has tuned"
    assert found["modified_beam_search"].options == {"blank_penalty": 0.0, "beam_size": 4}
    shown = capsys.readouterr().out
    assert "left out: 1best over HLG" in shown


def test_tuned_values_are_used_and_stand_in_names(recipe: Path, capsys) -> None:
    write_greedy(recipe)
    run(recipe)
    (summary,) = (recipe / "exp/base/greedy_search").glob("wer-summary-*")
    assert summary.name.endswith("-greedy_search-max-sym-per-frame-1-blank-penalty-2.0.txt")
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("with values tuned on dev (decoding.json): greedy_search blank-penalty 2;")


def test_tuned_values_of_other_weights_are_used_and_it_is_said(recipe: Path, capsys) -> None:
    write_greedy(recipe, checkpoint="epoch-1-avg-1")
    run(recipe)
    assert "tuned on dev by epoch-1-avg-1, not epoch-3-avg-1 " in capsys.readouterr().out
    assert list((recipe / "exp/base/greedy_search").glob("*-blank-penalty-2.0.txt"))


@pytest.mark.parametrize("given", ["0", "1"])
def test_an_option_that_is_given_wins_over_the_tuned_value(recipe: Path, capsys, given: str) -> None:
    write_greedy(recipe)
    run(recipe, "--blank-penalty", given)
    assert "values tuned" not in capsys.readouterr().out
    (summary,) = (recipe / "exp/base/greedy_search").glob("wer-summary-*")
    assert summary.name.endswith("-blank-penalty-1.0.txt" if given == "1" else "-max-sym-per-frame-1.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune", "test"], "--tune test: values that are chosen on a test set"),
        (["--tune", "test-other"], "tune on dev"),
        (["--tune", "dev", "--distort", "gain=-6"], "leave one of them out"),
        (["--tune", "dev", "--output-format", "ctm"], "--tune with --output-format: values are tuned on one split"),
        (["--tune", "dev", "--test-splits", "dev,test"], "--tune with --test-splits: values are tuned on one split"),
        (["--tune", "dev", "--num-layers", "2"], "the model was trained only at its whole depth"),
        (["--tune", "dev", "--decoding-method", "ctc_greedy_search"], "nothing to tune: all scales of the method"),
        (["--tune", "dev", "--decoding-method", "nbest_oracle", "--graph", "H"], "or it is an oracle"),
        (["--tune", "dev", "--decoding-method", "1best"], "no graph over words in"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(recipe: Path, capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(recipe, *arguments)
    error = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 1 and len(error) == 1 and message in error[0]
    assert not tuned_file(recipe).exists()
