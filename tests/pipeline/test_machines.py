"""One training over several machines, from the operator's host file."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.pipeline.machines import read_hostfile
from nanodistill_mcp.pipeline.recipe import resolve
from nanodistill_mcp.runs.options import Options
from tests.conftest import Bench, Demo
from tests.server.made import amplified_run

HERE = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}


def _hostfile(folder: Path, value: Any) -> Path:
    path = folder / "hosts.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "cannot be read as JSON"),
        ([], "a list of hosts"),
        ({"hosts": [HERE], "backend": "carrier pigeon"}, "a list of hosts, or a mapping with hosts and a backend"),
        (["mac-1"], "a name for ssh"),
        ([{"ssh": "-oProxyCommand=touch /tmp/x", "ips": ["10.0.0.1"]}], "a name for ssh"),
        ([{"ssh": "mac-1"}], "addresses"),
    ],
)
def test_what_is_no_host_file_is_refused_in_words_that_repeat_nothing_of_it(
    tmp_path: Path, value: Any, why: str
) -> None:
    """mlx.launch would say so into a log, after the run had waited its turn."""
    with pytest.raises(ConfigurationError, match=why) as refused:
        read_hostfile(_hostfile(tmp_path, value))
    assert "touch" not in str(refused.value)


async def test_a_host_file_that_is_none_is_told_before_anything_is_started(bench: Bench, tmp_path: Path) -> None:
    """Whoever asks to train again must not find the old training archived for a wrong file."""
    run_id = amplified_run(bench)
    bench.configure(hostfile=str(_hostfile(tmp_path, [])))
    async with bench.connect() as agent:
        told = await agent.refused("train", run_id=run_id, restart=True)
    assert told.startswith("The file that `hostfile` of the configuration names is not a host file of mlx.launch")
    assert not (bench.run_folder(run_id) / "jobs").exists() or not list(
        (bench.run_folder(run_id) / "jobs").glob("*train*")
    )


def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_one_that_can(tmp_path: Path) -> None:
    """Another batch would be another training than the one that was planned."""
    three = read_hostfile(_hostfile(tmp_path, {"backend": "jaccl", "hosts": [{"ssh": f"mac-{n}"} for n in range(3)]}))
    assert (three.ranks, three.backend) == (3, "jaccl")
    recipe = resolve("recommended", Options(batch_size=4), rows=1200, layers=28)[0]
    with pytest.raises(ConfigurationError, match=r"3 processes.*options\.batch_size=6"):
        three.check(recipe)
    three.check(recipe.model_copy(update={"batch_size": 6}))


@pytest.mark.slow
async def test_a_run_is_trained_by_all_machines_of_the_host_file_with_the_losses_of_one(
    bench: Bench, demo: Demo, tmp_path: Path
) -> None:
    """Two processes of this machine, as mlx.launch starts them on two: the same folder, the same plan, the same student."""
    run_id = bench.adopt(demo)
    one = await _trained(bench, run_id)
    bench.configure(hostfile=str(_hostfile(tmp_path, [HERE, HERE])))
    both = await _trained(bench, run_id)
    assert both["machines"] == ["127.0.0.1", "127.0.0.1"]
    assert "machines" not in one
    assert both["recipe"] == one["recipe"]
    assert both["first_train_loss"] == pytest.approx(one["first_train_loss"], rel=1e-4)
    assert both["final_train_loss"] == pytest.approx(one["final_train_loss"], rel=1e-2)
    assert both["best_valid_loss"] == pytest.approx(one["best_valid_loss"], rel=1e-2)
    assert (bench.run_folder(run_id) / "model" / "adapters" / "adapters.safetensors").exists()


async def _trained(bench: Bench, run_id: str) -> dict[str, Any]:
    options = {"num_train_epochs": 0.2}
    async with bench.connect() as agent:
        await agent.call("train", run_id=run_id, wait_s=0, restart=True, options=options)
        reply = await agent.finish(run_id, "train", options=options)
    assert reply["state"] == "done", reply
    return json.loads((bench.run_folder(run_id) / "training.json").read_text())
