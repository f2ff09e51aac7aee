"""The blocks of README.md that need Docker, run as they stand on a stack that is up."""

from __future__ import annotations

import re

from support.compose_stack import ComposeStack
from support.paths import ROOT

BLOCK = re.compile(r"<!-- run: compose -->\n```console\n(.*?)```", re.DOTALL)


def test_the_blocks_of_the_readme_that_need_docker(new_stack: ComposeStack) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert blocks
    new_stack.start()
    for block in blocks:
        commands = [line for line in block.splitlines() if line]
        for command in commands:
            done = new_stack.run("bash", "-euc", command)
            if "--scale worker=8" in command:
                assert new_stack.healthy("worker") == 8
            if command.endswith(" ps"):
                assert len(re.findall(r"-worker-\d+ .*\(healthy\)", done.stdout)) == 9, "eight, and the long-worker"
        assert commands[-1].endswith(" down")
    assert new_stack.containers() == []
