"""Starts `gb6 dev` for one suite: on a port that it can come back to, with data of its own."""

import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[3]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")

# How long anything may take before a test fails, in seconds.
PATIENCE = 20.0

# Ports are chosen outside the range of those that the kernel gives to outgoing connections: while a
# killed server is away, one of them could get its port (tests/sdk/lib/ports.js does the same).
FIRST_PORT = 10_000
USUAL_KERNEL_FIRST = 32_768
# Ports between the first ones of two processes with neighbouring ids.
STRIDE = 97
_given = 0


def kernel_first():
    """The first port that the kernel chooses by itself."""
    try:
        text = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        first = int(text.split()[0])
    except (OSError, ValueError, IndexError):
        return USUAL_KERNEL_FIRST
    return first if first > FIRST_PORT + 1_000 else USUAL_KERNEL_FIRST


def free_port():
    """A port of loopback, free for TCP and UDP a moment ago, never given out twice here."""
    global _given
    span = kernel_first() - FIRST_PORT
    for _ in range(span):
        port = FIRST_PORT + (os.getpid() * STRIDE + _given) % span
        _given += 1
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
            return port
        except OSError:
            continue
    raise RuntimeError(f"no port from {FIRST_PORT} to {FIRST_PORT + span} is free")


def gb6():
    """The gb6 that is tested: GB6_BIN, or the development build."""
    named = os.environ.get("GB6_BIN")
    file = ROOT / named if named else TARGET / "debug" / "gb6"
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist: build it with `cargo build -p gb6`")
    return file


class Server:
    """One `gb6 dev`; `ready` is what it said with --ready-json."""

    def __init__(self, name, arguments=(), files=()):
        """Starts it with these arguments beside the usual ones; in its directory stand `files`, texts
        by name, and an argument that is one of the names means that file."""
        parent = TARGET / "test-data"
        parent.mkdir(parents=True, exist_ok=True)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        for file in files:
            (self.dir / file).write_text(files[file])
        self.arguments = [
            str(self.dir / argument if argument in files else argument) for argument in arguments
        ]
        self.log = self.dir / "gb6.log"
        self.http_address = f"127.0.0.1:{free_port()}"
        self.quic_address = f"127.0.0.1:{free_port()}"
        self._process = None
        atexit.register(self._end)
        self._start()

    def _start(self):
        command = [gb6(), "dev", "--ready-json", "--http", self.http_address]
        # Servers that start at once would take the usual port from each other.
        command += ["--data-dir", self.dir / "data", "--quic", self.quic_address, *self.arguments]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        # A server that says nothing is ended, which ends the reading of its line.
        late = threading.Timer(PATIENCE, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"gb6 dev ended with {code} before it was ready\n{self.log_tail()}")
        self.ready = json.loads(line)
        self.http = self.ready["http"]
        self.ws = self.ready["ws"]

    def log_tail(self):
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def restart(self):
        """Starts it again on the same address and data."""
        self._start()

    def terminate(self):
        """SIGTERM; `ended` waits for how it ends."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self):
        """The status with which it ended."""
        status = self._process.wait(PATIENCE)
        self._process.stdout.close()
        return status

    def stop(self):
        """Ends the server of a suite and deletes its data."""
        self._end()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _end(self):
        if self._process is not None and self._process.poll() is None:
            self.kill()
