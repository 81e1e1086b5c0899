"""The Python programs of docs/migrating.md, as the page leaves them, on the server that it
configures."""

import asyncio
import json
import os
import re
import sys
import unittest

from lib.server import PATIENCE, ROOT, Server
from lib.token import member, sign_with

PAGE = (ROOT / "docs/migrating.md").read_text()


def blocks(language, heading):
    """The blocks of a language below a heading."""
    [section] = [s for s in PAGE.split("\n## ") if s.startswith(heading)]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


def changed(program, diff):
    """The program after the change."""
    minus, plus = (
        "\n".join(line[1:] for line in diff.splitlines() if line.startswith(sign)) for sign in "-+"
    )
    assert program.count(minus) == 1, f"the program does not say once: {minus}"
    return program.replace(minus, plus)


class Migrating(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        [config] = blocks("toml", "The server")
        cls.server = Server("migrating", files={"chat.toml": config}, arguments=("--config", "chat.toml"))
        cls.addClassCleanup(cls.server.stop)
        [before] = blocks("json", "The server")
        cls.secret = json.loads(before)["client"]["token"]["hmac_secret_key"]

    async def begin(self, program, diff):
        """Starts a program after its change."""
        text = changed(program, diff)
        self.assertIn("localhost:8080", text)
        text = text.replace("localhost:8080", self.server.http_address)
        # As the application's backend signs it: without a key id, and with no capabilities.
        token = sign_with(self.secret, {}, member("bot", caps=None))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", text, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TOKEN": token, "NO_PROXY": "*"},
        )
        self.addAsyncCleanup(process.wait)
        self.addCleanup(lambda: process.returncode is None and process.kill())
        return process

    async def line(self, process):
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        return line.decode().strip()

    async def test_the_bot_and_the_backend_of_before_talk_to_the_server_of_after(self):
        programs = blocks("python", "Python")
        diffs = blocks("diff", "Python")
        bot = await self.begin(programs[0], diffs[0])
        self.assertEqual(await self.line(bot), "bot: hello from Python")
        backend = await self.begin(programs[1], diffs[1])
        self.assertEqual(await self.line(backend), "2 ['bot']")
        self.assertEqual(await self.line(bot), "server: deploy done")
