from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.utterances import Utterance
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.params import count_parameters, read_configs
from shared_moe_conformer.pretrained import begin_with, choose_beginning
from tests.recipes.loading import load

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = load(ROOT / "local/new_recipe.py")
RECIPE = PROGRAM.NewRecipe("calls", "en", "CC0-1.0", Path("/some where/audio's"), 50, 0.5, 64, False, False, 0.4, 25.0)


def fill(folder: Path, recipe: Any, *, target: Path = ROOT / "egs/calls/ASR") -> dict[str, str]:
    PROGRAM.fill_templates(ROOT / "local/recipe_template", folder, recipe, target=target, local=ROOT / "local")
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("hours", [0.001, 0.5, 50.0, 900.0])
def test_the_configs_of_every_size_build(tmp_path: Path, hours: float) -> None:
    files = fill(tmp_path, RECIPE._replace(hours=hours))
    configs = read_configs(tmp_path / "config.py")
    names = {"full", "shared", "base", "merged", "streaming", "small"}
    assert configs.keys() == names and next(iter(configs)) == ("merged" if hours < 7 else "base")
    assert f"# the config {next(iter(configs))};" in files["README.md"]
    base = configs["base"]
    assert (base.data.corpus, base.data.language, base.data.licence) == ("calls", "en", "CC0-1.0")
    assert (base.model.vocab_size, base.data.lang_dir) == (64, "data/lang_bpe_64")
    assert base.model.encoder.num_layers == (6 if hours < 7 else 12)
    data, few = base.data, hours < 7
    for share in (data.made_noise_probability, data.reverb_probability, data.band_limit_probability):
        assert base.model.encoder.loudness_norm == (share > 0) == few
    assert "@" not in re.sub(r'"\$@"|\[@\]', "", "".join(files.values()))
    assert ("thorough=false" in files["prepare.sh"]) == (hours > 20)


def test_the_size_follows_from_the_speech_for_training(tmp_path: Path) -> None:
    splits = (*["train"] * 3, "dev", "test")
    said = [Utterance(str(i), "a.wav", f"word {i}", "", its, 0.0, 600.0, "") for i, its in enumerate(splits)]
    args = PROGRAM.parser().parse_args(["calls", "--tsv", "a", "--normalise", "lower", "--begin-with", "none"])
    recipe = PROGRAM.describe(said, audio_dir=tmp_path, sampling_rate=16000, args=args)
    assert recipe.hours == 0.5
    assert "5 utterances, 30.0 minutes for training; language" in fill(tmp_path, recipe)["README.md"]


@pytest.mark.parametrize(
    ("lowest", "rate"), [(4000, 8000), (8000, 8000), (11025, 11000), (16000, 16000), (44100, 16000)]
)
def test_features_have_the_band_of_the_corpus(tmp_path: Path, lowest: int, rate: int) -> None:
    assert PROGRAM.feature_rate(lowest) == rate
    files = fill(tmp_path, RECIPE._replace(sampling_rate=rate))
    assert {config.features.sampling_rate for config in read_configs(tmp_path / "config.py").values()} == {rate}
    default = f"\nsampling_rate={rate}\n. "
    assert (default in files["prepare.sh"]) == (rate != 16000), "16000 is the stages' own, set once these are read"
    assert f"at {rate} Hz, so nothing above {rate // 2} Hz" in files["README.md"]


@pytest.mark.parametrize(
    ("name", "hours"),
    [("an4-robust", 0.5), ("an4-robust", 5.0), ("an4-base", 0.5), ("an4-base", 5.0), ("an4-merged", 5.0)],
)
def test_one_config_and_its_streaming_form_begin_with_all_weights_of_the_zoos_model(
    tmp_path: Path, name: str, hours: float
) -> None:
    features, anywhere = FeatureConfig(sampling_rate=16000), ROOT / "egs/an4/ASR"
    beginning, _ = choose_beginning(name, hours=hours, features=features, zoo_dir=ROOT / "zoo")
    files = fill(tmp_path, RECIPE._replace(hours=hours, beginning=beginning))
    assert f"begin with the weights of [{name}](../../../zoo/{name}/README.md) (an4, licence BSD" in files["README.md"]
    configs = read_configs(tmp_path / "config.py")
    kind = "base" if name == "an4-base" else "merged"
    assert next(iter(configs)) == kind, "the one that begins with the model is recommended"
    begun = configs.pop(kind)
    assert (begun.training.init_from, begun.training.warmup_steps) == (f"../../../zoo/{name}", 200)
    trained, model = Bundle.load(ROOT / "zoo" / name), AsrModel(begun.model)
    assert "64 of 64 units" in begin_with(model, begun, trained.tokenizer, anywhere)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in trained.model.state_dict().items())
    levelled = name != "an4-base"
    assert begun.model.encoder.loudness_norm == levelled and (begun.data.gain_probability == 0) == levelled
    streaming = configs.pop("streaming")
    assert streaming.data.gain_probability > 0 and not streaming.model.encoder.loudness_norm
    live = AsrModel(streaming.model)
    assert "64 of 64 units" in begin_with(live, streaming, trained.tokenizer, anywhere)
    own = {key: value for key, value in trained.model.state_dict().items() if "feature_norm" not in key or not levelled}
    assert all(torch.equal(value, live.state_dict()[key]) for key, value in own.items())
    unused = {c.training.init_from or c.training.warmup_steps for c in configs.values()}
    assert unused == {300} and configs.keys() == {"full", "shared", "base", "merged", "small"} - {kind}
    every = {**configs, kind: begun, "streaming": streaming}
    stored = {name: count_parameters(c.model)["encoder"].unique for name, c in every.items()}
    assert 3 * stored["base"] <= stored["full"] and 3 * stored["merged"] <= stored["full"]
    assert stored["small"] < 0.7 * stored["streaming"]


def test_a_recipe_without_such_a_beginning_says_why(tmp_path: Path) -> None:
    for zoo, hours, rate, why in [
        (
            ROOT / "zoo",
            1.0,
            24000,
            "the model speechocean762-merged has features at 16000 Hz, the corpus has them at 24000 Hz",
        ),
        (tmp_path, 1.0, 16000, "the model speechocean762-merged is not in the zoo, which has no model"),
        (ROOT / "zoo", 7.0, 16000, "the corpus has 7 hours for training or more"),
    ]:
        features = FeatureConfig(sampling_rate=rate)
        found, reason = choose_beginning("", hours=hours, features=features, zoo_dir=zoo)
        assert found is None and reason.startswith(why)
        recipe = RECIPE._replace(why_random=why)
        assert f"`merged` begins with random weights: {why}.\n" in fill(tmp_path, recipe)["README.md"]
        assert {c.training.init_from for c in read_configs(tmp_path / "config.py").values()} == {""}


def test_the_shell_script_parses_and_finds_the_stages_from_any_folder(tmp_path: Path) -> None:
    files = fill(tmp_path, RECIPE)
    assert '. "$(dirname "${BASH_SOURCE[0]}")/../../../local/corpus_stages.sh" "$@"' in files["prepare.sh"]
    assert "audio_dir='/some where/audio'\"'\"'s'" in files["prepare.sh"]
    subprocess.run(["bash", "-n", tmp_path / "prepare.sh"], check=True)
    fill(tmp_path, RECIPE, target=tmp_path)
    shown = subprocess.run([tmp_path / "prepare.sh", "--help"], cwd="/", check=True, capture_output=True, text=True)
    assert "Prepare calls" in shown.stdout and "--vocab-size" in shown.stdout and "--corpus-dir" in shown.stdout


def test_characters_as_units(tmp_path: Path) -> None:
    files = fill(tmp_path, RECIPE._replace(vocab_size=900, characters_are_units=True, texts_are_shared=True))
    assert "\nunit=char\nallowed=(--shared-texts allowed)\n" in files["prepare.sh"]
    assert "vocab_size=" not in files["prepare.sh"]
    base = read_configs(tmp_path / "config.py")["base"]
    assert (base.model.vocab_size, base.data.lang_dir) == (900, "data/lang_char")


def test_what_was_kept_is_not_refused_later(tmp_path: Path) -> None:
    assert "allowed=" not in fill(tmp_path, RECIPE)["prepare.sh"]
    files = fill(tmp_path, RECIPE._replace(min_duration=0.3, max_duration=28.0))
    assert "\nallowed=(--min-duration 0.27 --max-duration 32)\n" in files["prepare.sh"], "copies at 1.1 and 0.9"
