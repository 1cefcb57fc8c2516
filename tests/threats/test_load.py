"""T8: so many jobs and no more, however many runs there are."""

import os

from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.server.stages import MOST_JOBS
from tests.runs.made import make_run
from tests.threats.conftest import Attack


async def test_a_job_beside_twenty_others_is_refused_and_nothing_is_archived_for_it(attack: Attack) -> None:
    """An agent that starts a job for each of a thousand runs would take the machine, and the provider's patience."""
    async with attack() as attacker:
        locks: list[int] = []
        for number in range(MOST_JOBS):
            lock = open_lock(make_run(attacker.home, f"busy-{number}").paths.worker_lock)
            assert try_lock(lock)
            locks.append(lock)
        run = make_run(attacker.home)
        run.paths.traces_cot.write_text("{}\n")
        told = await attacker.refused(attacker.call("synthesize_cot", run_id=run.run_id, wait_s=0, restart=True))
        assert told.startswith("20 jobs of other runs are already at work or in the queue: busy-")
        os.close(locks.pop())
        told = await attacker.refused(attacker.call("synthesize_cot", run_id=run.run_id, wait_s=0, restart=True))
        assert told.startswith("That student's folder is outside the directories"), "there is room again"
        assert run.paths.traces_cot.exists()
        for lock in locks:
            os.close(lock)
