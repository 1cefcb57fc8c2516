"""What a student is, what is refused as one, and how one that is only on the hub gets here."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import ConfigurationError, UserInputError
from nanodistill_mcp.runs.files import read_lines, write_json
from nanodistill_mcp.student.models import inspect, resolve
from nanodistill_mcp.student.requests import InspectRequest, StudentFacts
from tests.student.bench import carry_out, training
from tests.student.gguf_students import write_random_weights
from tests.student.hub_server import Hub, serving
from tests.tiny_student import make_tiny

Change = Callable[[Path], object]


def _facts(student: Path | str) -> StudentFacts:
    return inspect(InspectRequest(student=str(student), result_path=Path("unused")))


def _config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        write_json(path, {name: value for name, value in config.items() if value is not None})

    return change


def _without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def _with(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def _cut(name: str, size: int) -> Change:
    return lambda folder: os.truncate(folder / name, size)


def _only_other_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _sharded(folder: Path) -> None:
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    )


def _endless(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


REFUSED: dict[str, tuple[Change, str]] = {
    "no config": (_without("config.json"), r"has no config\.json"),
    "a config that is no JSON": (_with("config.json", "{"), "not a readable JSON object"),
    "a config that is no object": (_with("config.json", "[1]"), "not a readable JSON object"),
    "code of its own for the model": (_config(model_file="evil.py"), "'model_file': it asks to run code"),
    "code of its own for the library": (
        _config(auto_map={"AutoModel": "evil.Model"}),
        "'auto_map': it asks to run code",
    ),
    "code of its own for the tokenizer": (
        _with("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
        "tokenizer_config.json has 'auto_map'",
    ),
    "an unknown architecture": (_config(model_type="nosuch"), "no architecture for the model_type 'nosuch'"),
    "no architecture": (_config(model_type=None), "no architecture"),
    "an architecture that is a path": (_config(model_type="../../evil"), "no architecture"),
    "an architecture that is a module": (_config(model_type="llama.Model"), "no architecture"),
    "no tokenizer": (_without("tokenizer.json"), "has no tokenizer"),
    "a tokenizer that is no JSON": (_with("tokenizer.json", "{"), "tokenizer could not be loaded"),
    "no chat template": (_without("chat_template.jinja"), "has no chat template"),
    "a chat template that breaks": (_with("chat_template.jinja", "{% for %}"), "does not keep an answer"),
    "a chat template that never ends": (
        _with("chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "chat template takes more than 2 seconds",
    ),
    "a chat template that fills the memory": (
        _with("chat_template.jinja", "{{ 'a' * 4000000000 }}"),
        "chat template takes more than 2 GB",
    ),
    "a configuration that is nested without end": (_with("config.json", "[" * 200_000), "not a readable JSON object"),
    "a configuration without end": (_endless, "not a readable JSON object"),
    "no weights": (_without("model.safetensors"), r"has no model\*\.safetensors\."),
    "weights in another form": (_only_other_weights, "only weights in another form"),
    "weights that are cut off": (_cut("model.safetensors", 5000), "cut off"),
    "weights that are empty": (_cut("model.safetensors", 0), "cut off"),
    "a missing part of the weights": (_sharded, "1 files of the index are missing"),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_folder_that_is_no_student_is_refused_with_the_reason(
    tmp_path: Path, student: Path, change: Change, said: str
) -> None:
    """Before anything is paid: create_run asks this."""
    folder = shutil.copytree(student, tmp_path / "student")
    change(folder)

    with pytest.raises(UserInputError, match=said) as refused:
        _facts(folder)
    assert refused.value.next_step


def test_code_in_a_students_folder_is_never_run(tmp_path: Path, student: Path) -> None:
    """Neither asked for by name nor lying there; also not by training, which resolves the student again."""
    folder = shutil.copytree(student, tmp_path / "student")
    marker = tmp_path / "ran"
    for name in ("evil.py", "modeling_llama.py", "tokenization.py", "llama.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')")
    _facts(folder)
    _config(auto_map={"AutoTokenizer": ["evil.T", None]})(folder)
    with pytest.raises(UserInputError, match="code of its own"):
        resolve(str(folder))
    _config(model_file="evil.py", auto_map=None)(folder)
    code, result = carry_out(training(tmp_path / "run", folder, iters=1))
    assert (code, result["kind"]) == (1, "input")
    assert not marker.exists()


@pytest.mark.parametrize(
    "student",
    [
        "",
        "student",
        "./student",
        "a/b/c",
        "org/",
        "/name",
        "org/../name",
        "org/na--me",
        "org/name\n",
        "C:\\student",
        "/no/such",
        "~nobody/x",
    ],
)
def test_what_is_no_student_at_all_is_answered_with_what_one_is(student: str) -> None:
    """An agent gets the accepted forms and an example."""
    with pytest.raises(UserInputError) as refused:
        _facts(student)
    assert "absolute path of a folder" in refused.value.next_step
    assert "mlx-community/" in refused.value.next_step


def test_the_facts_of_a_student_are_read_without_loading_it(tmp_path: Path) -> None:
    """Parameters are counted as they are before packing, so a 4-bit student is as large as its original."""
    plain = _facts(make_tiny(tmp_path / "plain", "qwen3", extra_tokens=("<think>", "</think>")))
    packed_path = make_tiny(tmp_path / "packed", "qwen3", quantize_bits=4, extra_tokens=("<think>", "</think>"))
    (packed_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    packed = _facts(packed_path)

    assert (plain.model_type, plain.layers, plain.quantized_bits, plain.max_position_embeddings) == (
        "qwen3",
        2,
        None,
        2048,
    )
    assert plain.thinks_natively
    assert plain.has_chat_template
    assert (packed.quantized_bits, packed.licence, packed.parameters) == (4, "apache-2.0", plain.parameters)
    assert packed.bytes_on_disk < plain.bytes_on_disk
    assert (plain.warnings, packed.warnings, plain.bytes_to_download) == ([], [], 0)


def test_a_student_that_no_gguf_file_can_be_written_of_is_named_before_it_is_trained(tmp_path: Path) -> None:
    """Its fused model runs in MLX; whoever wants Ollama must know before anything is paid, not after hours of training."""
    unknown = make_tiny(tmp_path / "olmo", "llama")
    write_random_weights(unknown, json.loads((unknown / "config.json").read_bytes()) | {"model_type": "olmo2"})
    (told,) = _facts(unknown).warnings

    assert told.startswith("export_gguf will write no GGUF file of this student, only the fused MLX model: ")
    assert "not one of llama, mistral, qwen2" in told


def test_what_a_student_lacks_without_being_unusable_is_a_warning(tmp_path: Path, student: Path) -> None:
    """A run can go on; the caller should know."""
    folder = shutil.copytree(student, tmp_path / "student")
    _config(max_position_embeddings=None)(folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("for m in messages", "for m in messages if m['role'] != 'system'"))
    facts = _facts(folder)

    assert facts.max_position_embeddings == 2048
    assert len(facts.warnings) == 2


def test_resolve_gives_a_students_folder_and_downloads_nothing(student: Path) -> None:
    """What generation and the export start from."""
    assert resolve(str(student)) == student
    with pytest.raises(UserInputError, match="not on this machine yet"):
        resolve("no-such-org/no-such-student")


@pytest.fixture
def hub() -> Generator[Hub]:
    """A hub on a local port."""
    with serving() as hub:
        yield hub


def _environment(hub: Hub, cache: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@pytest.mark.slow
def test_a_student_on_the_hub_is_looked_at_without_its_weights_and_downloaded_by_train(
    tmp_path: Path, student: Path, hub: Hub
) -> None:
    """Nobody waits for gigabytes to learn that a student has no chat template; no code is ever downloaded."""
    served = shutil.copytree(student, tmp_path / "served")
    (served / "evil.py").write_text("raise SystemExit")
    hub.repositories["org/tiny"] = served
    environment = _environment(hub, tmp_path / "cache")

    code, before = carry_out(InspectRequest(student="org/tiny", result_path=tmp_path / "before.json"), **environment)
    assert code == 0
    assert before["student_path"] is None
    assert (before["parameters"], before["licence"], before["layers"]) == (98_624, "apache-2.0", 2)
    assert before["bytes_to_download"] == (served / "model.safetensors").stat().st_size
    assert not any("model.safetensors" in asked for asked in hub.requests)

    request = training(tmp_path / "run", Path("org/tiny"), iters=2)
    code, result = carry_out(request, **environment)
    assert (code, result["stopped"]) == (0, "finished")
    assert next(iter(read_lines(request.metrics_path))) == {"event": "download", "bytes": before["bytes_to_download"]}
    assert not any("evil.py" in asked for asked in hub.requests)

    asked = len(hub.requests)
    code, after = carry_out(InspectRequest(student="org/tiny", result_path=tmp_path / "after.json"), **environment)
    assert (code, after["bytes_to_download"]) == (0, 0)
    assert Path(after["student_path"]).is_dir()
    assert len(hub.requests) == asked, "what is here is not asked for"


def test_a_student_is_trained_at_the_commit_that_was_looked_at(tmp_path: Path, student: Path, hub: Hub) -> None:
    """Whoever can change the branch between create_run and train must not get another model in, checked or not."""
    hub.repositories["org/tiny"] = shutil.copytree(student, tmp_path / "served")
    environment = _environment(hub, tmp_path / "cache")
    code, facts = carry_out(InspectRequest(student="org/tiny", result_path=tmp_path / "before.json"), **environment)
    assert (code, facts["revision"]) == (0, "a" * 40)
    hub.newest, asked = "b" * 40, len(hub.requests)

    request = training(tmp_path / "run", Path(f"org/tiny@{facts['revision']}"), iters=1)
    code, result = carry_out(request, **environment)
    assert (code, Path(result["student_path"]).name) == (0, "a" * 40)
    assert not any("/main" in each or "b" * 40 in each for each in hub.requests[asked:])
    assert json.loads((request.adapter_dir / "adapter_config.json").read_text())["model"] == "org/tiny"


def test_a_student_the_hub_does_not_have_or_give_is_answered_by_who_can_fix_it(tmp_path: Path, hub: Hub) -> None:
    """A wrong name, a licence not accepted, and no network are three things."""
    hub.refused["org/gated"] = (403, "GatedRepo")
    environment = _environment(hub, tmp_path / "cache")
    for name, kind, said in (
        ("org/none", "input", "has no student"),
        ("org/gated", "configuration", "accepted its licence"),
    ):
        code, result = carry_out(InspectRequest(student=name, result_path=tmp_path / "r.json"), **environment)
        assert (code, result["kind"]) == (1, kind)
        assert said in result["what"]


def test_a_hub_that_cannot_be_reached_is_a_configuration_error() -> None:
    """Offline is how these tests run."""
    with pytest.raises(ConfigurationError, match="hub cannot be reached") as refused:
        _facts("mlx-community/never-here")
    assert "absolute path" in refused.value.next_step
