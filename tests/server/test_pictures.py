"""A finished stage shows its picture, in every way a client can look at one."""

import base64

from mcp.types import BlobResourceContents, CallToolResult, ImageContent

from nanodistill_mcp.pipeline.report.write import write_report
from nanodistill_mcp.server.app import status_reply
from nanodistill_mcp.server.pictures import with_pictures
from tests.conftest import Agent, Bench
from tests.reported import finished_run


def _images(result: CallToolResult) -> list[bytes]:
    found = [block for block in result.content if isinstance(block, ImageContent)]
    for block in found:
        assert block.mime_type == "image/png"
        assert block.annotations is not None
        assert block.annotations.audience == ["user"]
    return [base64.b64decode(block.data) for block in found]


async def test_train_evaluate_and_a_detailed_status_carry_the_pictures(bench: Bench) -> None:
    """Some clients show images, some only text and some only structure: each of them gets to the picture."""
    run = finished_run(bench.home)
    assert write_report(run) == {}
    loss, scorecard = run.paths.loss_picture.read_bytes(), run.paths.scorecard.read_bytes()
    folder = f"nanodistill://runs/{run.run_id}"
    async with bench.connect() as agent:
        for tool, name, picture in (("train", "loss.png", loss), ("evaluate", "scorecard.png", scorecard)):
            result = await agent.client.call_tool(tool, {"run_id": run.run_id})
            assert _images(result) == [picture]
            told = await agent.call(tool, run_id=run.run_id)
            assert told["pictures"] == [f"{folder}/{name}"]
        short = await agent.client.call_tool("get_status", {"run_id": run.run_id})
        assert _images(short) == []
        just_ended = with_pictures(run, status_reply(run, detail=False), "train", detail=False)
        assert _images(just_ended) == [loss]
        detailed = await agent.client.call_tool("get_status", {"run_id": run.run_id, "detail": True})
        assert _images(detailed) == [loss, scorecard]
        page = await agent.client.call_tool("read_artifact", {"run_id": run.run_id, "artifact": "scorecard.png"})
        assert _images(page) == [scorecard]
        read = await agent.client.read_resource(f"{folder}/loss.png")
        assert isinstance(content := read.contents[0], BlobResourceContents)
        assert (content.mime_type, base64.b64decode(content.blob)) == ("image/png", loss)
        listed = {resource.name for resource in (await agent.client.list_resources()).resources}
    assert {f"{run.run_id}/{name}" for name in ("report.md", "loss.png", "scorecard.png", "model/README.md")} <= listed


async def test_a_picture_that_is_not_there_or_not_ours_is_left_out(bench: Bench) -> None:
    """A reply is as good without it, and a file of megabytes would fill the conversation."""
    run = finished_run(bench.home)
    async with bench.connect() as agent:
        assert (await agent.call("evaluate", run_id=run.run_id))["pictures"] == []
        assert "no artifact" in await _refused(agent, run.run_id)
        run.paths.scorecard.write_bytes(b"\x89PNG" * 100_000)
        assert (await agent.call("evaluate", run_id=run.run_id))["pictures"] == []
        assert str(run.paths.scorecard) in await _refused(agent, run.run_id)


async def _refused(agent: Agent, run_id: str) -> str:
    return await agent.refused("read_artifact", run_id=run_id, artifact="scorecard.png")
