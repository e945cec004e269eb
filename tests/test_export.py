from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import Config, LmModelConfig, load_config, replace_fields, save_config
from shared_moe_conformer.data.tokenizer import save_units
from shared_moe_conformer.decode import write_scores
from shared_moe_conformer.decoding.comparison import MethodResult
from shared_moe_conformer.decoding.neural_lm import LanguageModel, neural_lm_path, save_neural_lm
from shared_moe_conformer.decoding.options import DecodingConfig, token_ngram_path
from shared_moe_conformer.decoding.scoring import Decoded, Scores, character_error_rate, word_error_rate, write_files
from shared_moe_conformer.decoding.tuned_values import Tuned, write_tuned
from shared_moe_conformer.export import choose_example, main, read_error_rates
from shared_moe_conformer.lattice.ngram import train_ngram
from shared_moe_conformer.release.manifest import TEST_WAV, expected_text
from shared_moe_conformer.release.zoo_index import find
from shared_moe_conformer.speech.audio import read_audio, write_wav
from shared_moe_conformer.training.folder import epoch_path, save_checkpoint
from shared_moe_conformer.zoo import verify

Output = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(tmp_path: Path, lang_dir: Path, tiny_bundle: Bundle, tones: np.ndarray) -> Path:
    """A recipe's folder after preparation and two epochs of training `base`."""
    folder = tmp_path / "recipe"
    config = replace_fields(tiny_bundle.config, {"lang_dir": str(lang_dir), "manifest_dir": "data/fbank"})
    (folder / "data" / "fbank").mkdir(parents=True)
    (folder / "exp" / "base").mkdir(parents=True)
    cuts = [make_cut(folder, f"cut{i}", np.tile(tones, i + 1)) for i in range(3)]
    for split in ("train", "test"):
        CutSet.from_cuts(cuts).to_file(folder / "data" / "fbank" / f"cuts_{split}.jsonl.gz")
    save_config(config, folder / "exp" / "base" / "config.json")
    state = tiny_bundle.model.state_dict()
    for epoch in (1, 2):
        changed = {name: value + epoch if value.is_floating_point() else value for name, value in state.items()}
        save_checkpoint(epoch_path(folder / "exp" / "base", epoch), {"model": changed})
    return folder


def make_cut(folder: Path, name: str, samples: np.ndarray) -> MonoCut:
    write_wav(folder / f"{name}.wav", samples, sampling_rate=16000)
    cut = Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut()
    cut.recording = cut.recording.with_path_prefix("")
    cut.recording.sources[0].source = f"{name}.wav"
    cut.supervisions = [SupervisionSegment(name, name, start=0, duration=cut.duration, text=f"TEXT OF {name}".upper())]
    return cut


def run(recipe: Path, config: Config, *arguments: str) -> None:
    zoo = ["--zoo-dir", str(recipe / "zoo")] if "--zoo-dir" not in arguments else []
    main({"base": config}, recipe_dir=recipe, arguments=["--name", "tiny", *zoo, *arguments])


def test_a_decoding_graph_is_released_on_demand(recipe: Path, graph_lang_dir: Path, capsys: Output) -> None:
    config = load_config(recipe / "exp" / "base" / "config.json")
    with pytest.raises(SystemExit):
        run(recipe, config, "--with-graph")
    assert "no graph over words in" in capsys.readouterr().err
    assert not (recipe / "zoo" / "tiny").exists()
    save_config(replace_fields(config, {"lang_dir": str(graph_lang_dir)}), recipe / "exp" / "base" / "config.json")
    run(recipe, config, "--with-graph", "--decoding-method", "1best")
    folder = recipe / "zoo" / "tiny"
    names = {"words.txt", "lexicon.txt", "G.arpa", "HLG_standard.safetensors"}
    assert names <= {path.name for path in folder.iterdir()}
    assert names <= {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert "with a decoding graph: words.txt (0.00 MB), lexicon.txt" in capsys.readouterr().out
    assert "`HLG_standard.safetensors` a decoding graph over words" in (folder / "README.md").read_text()
    assert verify("tiny", zoo_dir=recipe / "zoo") == expected_text(folder)
    assert Bundle.load(folder).default_search.decoding_method == "1best"


def test_language_models_over_tokens_are_released_on_demand(
    recipe: Path, tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray, capsys: Output
) -> None:
    own = recipe / "lang"
    shutil.copytree(lang_dir, own)
    config, pieces = replace_fields(tiny_bundle.config, {"lang_dir": str(own)}), tiny_bundle.tokenizer.pieces
    save_config(replace_fields(config, {"manifest_dir": "data/fbank"}), recipe / "exp/base/config.json")
    with pytest.raises(SystemExit):
        run(recipe, config, "--with-lm", "rnn")
    assert "run ./train_lm.py --lm-type rnn" in capsys.readouterr().err and not (recipe / "zoo").exists()
    torch.manual_seed(0)
    lm = LanguageModel(LmModelConfig("rnn", len(pieces), embedding_dim=4, hidden_dim=8, num_layers=1)).eval()
    lm.output_bias.data[-1] = 1e6  # it expects one token always
    save_neural_lm(lm, neural_lm_path(own, "rnn"), pieces)
    train_ngram([pieces[3:6]], 2, vocabulary=pieces[1:]).save(token_ngram_path(own, 2))
    search = "modified_beam_search_LODR:rnn"
    write_tuned(recipe / "exp/base", {search: Tuned({"lm_scale": 0.7}, "dev", "epoch-1-avg-1", 50.0, 60.0)})
    run(recipe, config, "--with-lm", "rnn")
    folder = recipe / "zoo/tiny"
    assert "`rnn_lm.safetensors`, `token_2gram.arpa` language models" in (folder / "README.md").read_text()
    assert "modified_beam_search_LODR:rnn lm-scale 0.7" in capsys.readouterr().out
    bundle, decoding = Bundle.load(folder), DecodingConfig("modified_beam_search_LODR", lm_type="rnn", lm_scale=3.0)
    assert bundle.manifest.decoding_options == {search: {"lm_scale": 0.7}}
    plain, fused = (
        bundle.transcribe(tones, sampling_rate=16000, decoding=d).text
        for d in (DecodingConfig("modified_beam_search"), decoding)
    )
    stream = bundle.stream(chunk_size=8, left_context=64, decoding=decoding)
    stream.accept(tones, 16000)
    assert plain != fused and stream.finish().text == fused
    with pytest.raises(FileNotFoundError, match="no neural language model in"):
        bundle.transcribe(tones, sampling_rate=16000, decoding=replace_fields(decoding, {"lm_type": "transformer"}))


def test_units_of_another_tokenizer_are_not_released(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    save_units(recipe / "exp/base", ["<blk>", "OTHER"])
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config)
    assert "was trained with other units" in capsys.readouterr().err and not (recipe / "zoo").exists()


def write_summary(exp_dir: Path, method: str, suffix: str, hyp: str) -> None:
    results = [Decoded("a", "ONE TWO", hyp)]
    rates = word_error_rate(results), character_error_rate(results)
    scores = Scores("test", method, f"{method}-beam-4", *rates, 0.1)
    write_files(results, scores, exp_dir / method, suffix=f"{suffix}-{method}-beam-4")


def test_released_model_is_the_average_and_verifies(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    run(recipe, tiny_bundle.config, "--epoch", "2", "--avg", "2")
    bundle = Bundle.load(recipe / "zoo" / "tiny")
    state = tiny_bundle.model.state_dict()
    for name, value in bundle.model.state_dict().items():
        torch.testing.assert_close(value, state[name] + (1.5 if value.is_floating_point() else 0))
    assert verify("tiny", zoo_dir=recipe / "zoo") == expected_text(recipe / "zoo" / "tiny")
    assert "from epoch-2-avg-2" in capsys.readouterr().out


def test_facts_come_from_the_experiment(recipe: Path, tiny_bundle: Bundle) -> None:
    run(recipe, tiny_bundle.config)
    entry, bundle = find("tiny", zoo_dir=recipe / "zoo"), Bundle.load(recipe / "zoo" / "tiny")
    assert (entry.corpus, entry.language, entry.licence) == ("telephone", "en", "CC-BY-SA-3.0")
    assert entry.unique_parameters == sum(p.numel() for p in bundle.model.parameters())
    assert entry.unique_parameters < entry.unrolled_parameters
    assert entry.active_parameters < entry.unrolled_parameters
    assert entry.error_rates == {}
    assert bundle.manifest.package_version
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", bundle.manifest.commit or "0" * 40)


def test_a_release_does_not_tell_where_folders_were(recipe: Path, tiny_bundle: Bundle) -> None:
    options = {"teacher": "/home/me/exp/full", "init_from": "exp/old", "noise_manifest": "/data/musan.jsonl.gz"}
    path = recipe / "exp" / "base" / "config.json"
    save_config(replace_fields(load_config(path), options), path)
    run(recipe, tiny_bundle.config)
    bundle = Bundle.load(recipe / "zoo" / "tiny")
    config = bundle.config
    assert (
        bundle.manifest.begun_with == {"old": {}}
        and "the weights of *old*" in (recipe / "zoo/tiny/README.md").read_text()
    )
    assert (config.training.teacher, config.training.init_from) == ("full", "exp/old")
    assert config.data.noise_manifest == "musan.jsonl.gz"


def test_newest_epoch_is_the_default(recipe: Path, tiny_bundle: Bundle) -> None:
    run(recipe, tiny_bundle.config)
    name = "ctc_head.weight"
    weight = Bundle.load(recipe / "zoo" / "tiny").model.state_dict()[name]
    torch.testing.assert_close(weight, tiny_bundle.model.state_dict()[name] + 2)


def test_example_is_the_test_cut_nearest_to_three_seconds(recipe: Path, tiny_bundle: Bundle, tones: np.ndarray) -> None:
    run(recipe, tiny_bundle.config)
    samples, sampling_rate = read_audio(recipe / "zoo" / "tiny" / TEST_WAV)
    assert sampling_rate == 16000
    assert np.abs(samples - tones).max() < 2**-14
    assert "TEXT OF CUT0" in (recipe / "zoo" / "tiny" / "test.txt").read_text()


def test_segments_of_long_recordings_are_as_long_as_the_training_utterances(
    recipe: Path, tiny_bundle: Bundle, capsys: Output
) -> None:
    run(recipe, tiny_bundle.config)
    expected = float(np.quantile([2.0, 4.0, 6.0], 0.95).round(1))
    assert Bundle.load(recipe / "zoo" / "tiny").manifest.segment_seconds == expected
    (recipe / "data" / "fbank" / "cuts_train.jsonl.gz").unlink()
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config, "--overwrite")
    assert "cuts_train.jsonl.gz: run ./prepare.sh first" in capsys.readouterr().err


def test_error_rates_are_those_of_the_very_same_epochs(recipe: Path, tiny_bundle: Bundle) -> None:
    exp_dir = recipe / "exp" / "base"
    write_summary(exp_dir, "modified_beam_search", "epoch-2-avg-1", "ONE")
    write_summary(exp_dir, "ctc_prefix_beam_search", "epoch-2-avg-1", "ONE TWO")
    write_summary(exp_dir, "modified_beam_search", "epoch-2-avg-2", "THREE FOUR")
    write_summary(exp_dir, "modified_beam_search", "epoch-2-avg-10", "THREE FOUR")
    write_summary(exp_dir, "ctc_greedy_search", "epoch-2-avg-1-2-layers", "THREE FOUR")
    run(recipe, tiny_bundle.config, "--epoch", "2", "--avg", "1")
    expected = {"test": {"modified_beam_search-beam-4": 50.0, "ctc_prefix_beam_search-beam-4": 0.0}}
    assert find("tiny", zoo_dir=recipe / "zoo").error_rates == expected
    assert "| test | modified_beam_search-beam-4 | 50.00 % |" in (recipe / "zoo" / "tiny" / "README.md").read_text()


def test_tuned_values_go_along_and_are_the_released_models_defaults(
    recipe: Path, tiny_bundle: Bundle, capsys: Output
) -> None:
    run(recipe, tiny_bundle.config)
    plain = Bundle.load(recipe / "zoo" / "tiny")
    assert plain.manifest.decoding_options == {} and plain.default_search == DecodingConfig()
    assert "values tuned" not in capsys.readouterr().out
    options = {"greedy_search": {"blank_penalty": 3.0}, "1best": {"hlg_scale": 0.3}}
    found = {method: Tuned(values, "dev", "epoch-1-avg-1", 1.0, 2.0) for method, values in options.items()}
    write_tuned(recipe / "exp" / "base", found)
    run(recipe, tiny_bundle.config, "--overwrite")
    shown = capsys.readouterr().out
    assert "with values tuned on dev by epoch-1-avg-1, not epoch-2-avg-1 (decoding.json): greedy_search" in shown
    tuned = Bundle.load(recipe / "zoo" / "tiny")
    assert tuned.manifest.decoding_options == options
    assert tuned.default_search == DecodingConfig(blank_penalty=3.0)
    assert verify("tiny", zoo_dir=recipe / "zoo") == tuned.transcribe(recipe / "zoo" / "tiny" / TEST_WAV).text


def test_the_rate_by_the_released_models_own_options_is_the_one_that_lists_show(
    recipe: Path, tiny_bundle: Bundle
) -> None:
    exp_dir, hyps = recipe / "exp/base", {0.0: "ONE", 3.0: "ONE TWO", 4.0: "ONE THREE FOUR"}
    for penalty, hyp in hyps.items():
        result = MethodResult(DecodingConfig(blank_penalty=penalty), [Decoded("a", "ONE TWO", hyp)], [], 0.1, 1.0)
        write_scores(result, exp_dir, test_set="test", checkpoint="epoch-2-avg-1")
    run(recipe, tiny_bundle.config)
    assert find("tiny", zoo_dir=recipe / "zoo").word_error_rate == (50.0, "test")
    write_tuned(exp_dir, {"greedy_search": Tuned({"blank_penalty": 3.0}, "dev", "epoch-2-avg-1", 1.0, 2.0)})
    run(recipe, tiny_bundle.config, "--overwrite")
    assert find("tiny", zoo_dir=recipe / "zoo").word_error_rate == (0.0, "test")


def test_the_released_models_own_search_can_be_chosen(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    run(recipe, tiny_bundle.config, "--decoding-method", "ctc_greedy_search")
    assert Bundle.load(recipe / "zoo/tiny").default_search.decoding_method == "ctc_greedy_search"
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config, "--decoding-method", "1best", "--overwrite")
    assert "give --with-graph as well" in capsys.readouterr().err


def test_damaged_summary_is_named(recipe: Path, tiny_bundle: Bundle) -> None:
    path = recipe / "exp" / "base" / "greedy_search" / "wer-summary-test-epoch-2-avg-1-greedy_search.txt"
    path.parent.mkdir()
    path.write_text("settings\tWER\ngreedy_search\n")
    with pytest.raises(ValueError, match=path.name):
        read_error_rates(recipe / "exp" / "base", tiny_bundle.config, checkpoint="epoch-2-avg-1", first="")


def test_lost_audio_is_named(recipe: Path, tiny_bundle: Bundle) -> None:
    for path in recipe.glob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match="the audio of test cut cut0 cannot be read") as caught:
        choose_example(replace_fields(tiny_bundle.config, {"manifest_dir": "data/fbank"}), recipe_dir=recipe)
    assert "\n" not in str(caught.value)


def test_other_forms_are_written_from_the_experiment_too(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    run(recipe, tiny_bundle.config, "--to", "icefall", "espnet")
    assert {path.name for path in (recipe / "zoo").iterdir()} >= {"tiny", "tiny-icefall", "tiny-espnet.zip"}
    shown = capsys.readouterr().out
    assert f"{recipe / 'zoo' / 'tiny-icefall'}: icefall form of tiny\n  pretrained.pt: " in shown
    shutil.rmtree(recipe / "zoo" / "tiny")
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config, "--to", "icefall")
    assert "tiny-icefall exists: give another name, or --overwrite" in capsys.readouterr().err
    assert not (recipe / "zoo" / "tiny").exists()
    run(recipe, tiny_bundle.config, "--to", "icefall", "--overwrite")


def test_chunks_of_the_streaming_form_are_given_here_too(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config, "--chunk-size", "8")
    assert "are for the form sherpa-onnx-online: add --to sherpa-onnx-online" in capsys.readouterr().err
    assert not (recipe / "zoo").exists()
    save_checkpoint(epoch_path(recipe / "exp" / "base", 1), {"model": tiny_bundle.model.state_dict()})
    run(recipe, tiny_bundle.config, "--epoch", "1", "--to", "sherpa-onnx-online", "--chunk-size", "8")
    card = (recipe / "zoo" / "sherpa-onnx-streaming-conformer-tiny" / "README.md").read_text()
    assert "| chunk | 8 encoder frames, 320 ms |\n| left context | 64 encoder frames, 2560 ms" in card


def test_existing_model_is_replaced_only_on_demand(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    run(recipe, tiny_bundle.config, "--epoch", "1")
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config, "--epoch", "2")
    assert "zoo/tiny exists: give another name, or --overwrite" in capsys.readouterr().err
    before = find("tiny", zoo_dir=recipe / "zoo")
    run(recipe, tiny_bundle.config, "--epoch", "2", "--overwrite")
    assert find("tiny", zoo_dir=recipe / "zoo").sha256 != before.sha256
    assert verify("tiny", zoo_dir=recipe / "zoo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "has no epoch-3.pt"),
        (["--epoch", "1", "--avg", "2"], "--avg 2, and epoch 1 is the last"),
        (["--exp-dir", "nowhere"], "train first"),
        (["--name", "../outside"], "'../outside' cannot be a model's name"),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(
    recipe: Path, tiny_bundle: Bundle, capsys: Output, arguments: list[str], message: str
) -> None:
    before = sorted(recipe.parent.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        run(recipe, tiny_bundle.config, *arguments)
    err = capsys.readouterr().err
    assert exit_.value.code == 1
    assert message in err
    assert err.count("\n") == 1
    assert sorted(recipe.parent.rglob("*")) == before


def test_weights_of_another_config_are_named(recipe: Path, tiny_bundle: Bundle, capsys: Output) -> None:
    config = replace_fields(tiny_bundle.config, {"feed_forward_dim": 48})
    save_config(config, recipe / "exp" / "base" / "config.json")
    with pytest.raises(SystemExit):
        run(recipe, tiny_bundle.config)
    err = capsys.readouterr().err
    assert "feed_forward" in err
    assert err.count("\n") == 1


def test_on_a_full_disk_no_half_of_a_model_is_released(
    recipe: Path, small_disk: Path, fill: Callable[[int], None], capsys: Output
) -> None:
    config = load_config(recipe / "exp" / "base" / "config.json")
    arguments = ("--zoo-dir", str(small_disk / "zoo"))
    for pages in (1, 12):
        fill(pages)
        with pytest.raises(SystemExit) as caught:
            run(recipe, config, *arguments)
        told = capsys.readouterr().err.splitlines()[-1]
        assert caught.value.code == 1 and told.endswith("/zoo/tiny': make room there, then run this again")
        assert not [path for path in (small_disk / "zoo").rglob("*") if path.name != "index.json"]
    fill(150)
    run(recipe, config, *arguments)
    assert isinstance(verify("tiny", zoo_dir=small_disk / "zoo"), str)
