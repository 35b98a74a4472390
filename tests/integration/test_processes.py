"""The embedded Ray runs nothing that the service has no use for."""

import pytest

from tests.integration.service import MillraceProcess

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


async def test_log_monitor_autoscaler_and_dashboard_are_not_there(service: MillraceProcess) -> None:
    commands = [" ".join(process.cmdline()) for process in service.processes()]
    assert any("raylet/raylet" in command for command in commands)
    assert [command for command in commands if "monitor.py" in command or "dashboard/dashboard.py" in command] == []
