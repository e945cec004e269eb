from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.convert import main
from shared_moe_conformer.forms.catalogue import FORMS

Save = Callable[..., Path]
Output = pytest.CaptureFixture[str]
NAMES = {
    "espnet": "tiny-espnet.zip",
    "sherpa-onnx": "sherpa-onnx-conformer-tiny",
    "sherpa-onnx-online": "sherpa-onnx-streaming-conformer-tiny",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_written_beside_the_model(saved: Save, capsys: Output, form: str) -> None:
    if "onnx" in form:
        pytest.importorskip("onnxruntime")
    folder = saved()
    main(["--model", str(folder), "--to", form])
    target = folder.with_name(NAMES.get(form, f"tiny-{form}"))
    assert target.exists()
    first, *files = capsys.readouterr().out.splitlines()
    assert first == f"{target}: {form} form of tiny"
    compared = [line for line in files if "differs from the model by" in line]
    assert len(compared) == {"onnx": 4, "sherpa-onnx": 4, "sherpa-onnx-online": 4, "torchscript": 5}.get(form, 0)
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--to", form])
    err = capsys.readouterr().err
    assert f"{target} exists" in err
    assert err.count("\n") == 1
    main(["--model", str(folder), "--to", form, "--overwrite"])


def test_several_forms_are_written_at_once(saved: Save, tmp_path: Path, capsys: Output) -> None:
    folder = saved()
    main(["--model", str(folder), "--to", "icefall", "espnet"])
    assert {path.name for path in folder.parent.iterdir()} == {"tiny", "tiny-icefall", "tiny-espnet.zip"}
    main(["--model", str(folder), "--to", "icefall", "--output", str(tmp_path / "elsewhere")])
    assert (tmp_path / "elsewhere" / "exp" / "pretrained.pt").is_file()
    main(["--model", str(folder), "--to", "espnet", "--output", str(tmp_path / "new" / "tiny.zip")])
    assert (tmp_path / "new" / "tiny.zip").is_file()
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--to", "icefall", "espnet", "--output", str(tmp_path / "both")])
    assert "--output holds one form, and --to names 2" in capsys.readouterr().err


def test_chunks_are_given_to_the_form_that_has_some(saved: Save, capsys: Output) -> None:
    pytest.importorskip("onnxruntime")
    folder, chunks = saved(), ["--chunk-size", "4", "--left-context-frames", "8"]
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--to", "icefall", *chunks])
    assert "--chunk-size and --left-context-frames are for the form sherpa-onnx-online" in capsys.readouterr().err
    main(["--model", str(folder), "--to", "sherpa-onnx-online", *chunks])
    assert "  It was never trained in chunks (--chunk-sizes)" in capsys.readouterr().out
    card = (folder.with_name(NAMES["sherpa-onnx-online"]) / "README.md").read_text()
    assert "| chunk | 4 encoder frames, 160 ms |\n| left context | 8 encoder frames, 320 ms" in card


def test_pushing_what_cannot_be_is_refused_before_anything_is_written(saved: Save, capsys: Output) -> None:
    folder = saved()
    for push, forms, message in [
        ("hf://o/tiny", ("icefall", "espnet"), "--push takes one form, and --to names 2"),
        ("https://o/tiny", ("icefall",), "https://o/tiny is not a repository of Hugging Face: give hf://owner/name"),
        ("hf://tiny", ("icefall",), "hf://tiny: give hf://owner/name"),
    ]:
        with pytest.raises(SystemExit):
            main(["--model", str(folder), "--to", *forms, "--push", push])
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
