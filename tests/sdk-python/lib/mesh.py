"""A mesh on this machine: geo, a region and two edges as processes, and a balancer before the edges."""

import asyncio
import atexit
import http.client
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from lib.server import PATIENCE, TARGET, free_port, gb6
from lib.token import sign_with

ROLES = {"g1": "geo", "r1": "region", "e1": "edge", "e2": "edge"}
SECRET = "0123456789abcdef" * 4
API_KEY = "gb6_demo_" + "7" * 32


class Node:
    """One process; edges have addresses for clients and for the server API."""

    def __init__(self, mesh, name):
        self.name = name
        self.mesh = mesh
        self.http = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.log = mesh.dir / f"{name}.log"
        self.process = None

    def start(self):
        role = ROLES[self.name]
        command = [gb6(), role, "--name", self.name, "--http", self.http]
        if role == "edge":
            command += ["--admin", self.admin, "--drain", "2s"]
        else:
            command += ["--mesh-listen", self.mesh.listen[self.name]]
        if role != "geo":
            command += ["--mesh-geo", f"g1@{self.mesh.listen['g1']}"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, cwd=self.mesh.dir, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.name} is not ready\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def is_ready(self):
        """What a balancer asks."""
        connection = http.client.HTTPConnection(self.http, timeout=PATIENCE)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """The status with which it ended."""
        return self.process.wait(PATIENCE)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)


class Mesh:
    """All of it; `edges` are the two."""

    def __init__(self, name):
        parent = TARGET / "test-data"
        parent.mkdir(parents=True, exist_ok=True)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        self.listen = {node: f"127.0.0.1:{free_port()}" for node in ("g1", "r1")}
        self.nodes = {node: Node(self, node) for node in ROLES}
        atexit.register(self._end)
        self._run("cert", "ca", "mesh-data/certs")
        for node, role in ROLES.items():
            self._run("cert", "node", "--ca", "mesh-data/certs", "--role", role, "--name", node)
        data = self.dir / "mesh-data"
        (data / "demo.secret").write_text(SECRET)
        snapshot = self._run("config", "example", "snapshot")
        snapshot = snapshot.replace("127.0.0.1:7700", self.listen["g1"])
        snapshot = snapshot.replace("127.0.0.1:7600", self.listen["r1"])
        # In the table of the instance, ahead of its sub-tables.
        head = "[instances.demo]\n"
        snapshot = snapshot.replace(head, f'{head}api_keys = ["{API_KEY}"]\n', 1)
        (data / "snapshot.toml").write_text(snapshot)
        for node in self.nodes.values():
            node.start()
        self.edges = [self.nodes["e1"], self.nodes["e2"]]

    def _run(self, *arguments):
        done = subprocess.run(
            [gb6(), *arguments], cwd=self.dir, check=True, capture_output=True, text=True
        )
        return done.stdout

    def token(self, claims):
        """A token of its one instance."""
        return sign_with(SECRET, {"kid": "demo.main"}, claims)

    def stop(self):
        self._end()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _end(self):
        for node in reversed(self.nodes.values()):
            node.kill()


class Balancer:
    """Leads each connection to the first edge that says it is ready."""

    def __init__(self, edges):
        self.edges = edges
        self._open = set()
        self._leading = set()

    async def start(self):
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.address = "127.0.0.1:%d" % self._server.sockets[0].getsockname()[1]
        return self

    async def _lead(self, reader, writer):
        for edge in self.edges:
            if not await asyncio.to_thread(edge.is_ready):
                continue
            try:
                host, port = edge.http.split(":")
                to_reader, to_writer = await asyncio.open_connection(host, int(port))
            except OSError:
                continue
            self._leading.add(asyncio.current_task())
            self._open |= {writer, to_writer}
            await asyncio.gather(self._copy(reader, to_writer), self._copy(to_reader, writer))
            self._open -= {writer, to_writer}
            self._leading.discard(asyncio.current_task())
            return
        writer.close()

    @staticmethod
    async def _copy(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def stop(self):
        self._server.close()
        for writer in self._open:
            writer.close()
        await asyncio.gather(*self._leading)
