"""A test double of S3: moto's server, with buckets that outlive the process.

moto keeps everything in memory and handles requests side by side without locks. Here what changes
something is done one request at a time, so that a conditional put is decided once, and is written to a
journal and synced before it is answered; a start does the journal again. What its disk has no space for
is refused beforehand, as MinIO does it. What is still not S3: a wrong
secret is accepted, objects have the time of the start as their last modification after one, and the
journal never shrinks.

    python server.py --port PORT --journal FILE [--bucket NAME]
"""

import argparse
import errno
import json
import os
import re
import signal
import struct
import sys
import threading
from io import BytesIO
from urllib.parse import parse_qsl, urlencode

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple
from werkzeug.test import create_environ, run_wsgi_app

CHANGING = {"PUT", "POST", "DELETE"}
# Before each entry: the bytes of its head (JSON) and of its body.
LENGTHS = struct.Struct(">II")
UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")
# What the id of an upload may add to a head.
UPLOAD_ID_BYTES = 1024
FULL = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum free drive threshold. \
Please delete a few objects to proceed.</Message></Error>"""


def query_without_signature(query):
    """A presigned URL has expired when the journal is done again; who signed it is no matter here."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return [(k, v) for k, v in pairs if not k.lower().startswith("x-amz-")]


class Journal:
    """The requests that changed something, in their order."""

    def __init__(self, path):
        self.file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "rb+")
        self.end = 0

    def entries(self):
        """Each head and body; a torn last one is cut off, since it was never answered, and so is
        space that was reserved."""
        self.file.seek(0)
        while True:
            start = self.file.tell()
            lengths = self.file.read(LENGTHS.size)
            if len(lengths) == LENGTHS.size:
                head, body = LENGTHS.unpack(lengths)
                bytes_ = self.file.read(head + body)
                if head > 0 and len(bytes_) == head + body:
                    yield json.loads(bytes_[:head]), bytes_[head:]
                    continue
            self.file.truncate(start)
            self.end = start
            return

    def reserve(self, head, body):
        """Whether there is space for an entry, which nobody else is given then."""
        length = LENGTHS.size + len(json.dumps(head)) + UPLOAD_ID_BYTES + len(body)
        try:
            os.posix_fallocate(self.file.fileno(), self.end, length)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.release()
            return False
        return True

    def release(self):
        """Gives back what was reserved and not used."""
        self.file.truncate(self.end)

    def append(self, head, body):
        """Writes an entry where it was reserved; its lengths last, without which it is not there."""
        head = json.dumps(head).encode()
        self.write(self.end + LENGTHS.size, head + body)
        self.write(self.end, LENGTHS.pack(len(head), len(body)))
        os.fsync(self.file.fileno())
        self.end += LENGTHS.size + len(head) + len(body)

    def write(self, at, what):
        self.file.seek(at)
        self.file.write(what)
        self.file.flush()


class Durable:
    """The WSGI application around moto's."""

    def __init__(self, app, journal):
        self.app = app
        self.journal = journal
        self.changing = threading.Lock()

    def replay(self):
        """Does the journal again and returns how many entries it has. Ids of multipart uploads are
        made anew, so those of the journal are exchanged for what they became; a client that has one
        from before finds its upload gone, as after an abort."""
        uploads = {}
        count = 0
        for head, body in self.journal.entries():
            query = [
                (k, uploads.get(v, v) if k == "uploadId" else v)
                for k, v in query_without_signature(head["query"])
            ]
            environ = create_environ(
                path=head["path"],
                base_url=head["base"],
                query_string=urlencode(query),
                method=head["method"],
                headers=head["headers"],
                input_stream=BytesIO(body),
                content_length=len(body),
            )
            answer, status, _ = run_wsgi_app(self.app, environ, buffered=True)
            answer = b"".join(answer)
            if not status.startswith("2"):
                sys.exit(f"{head['method']} {head['path']} of the journal gave {status}: {answer!r}")
            made = UPLOAD_ID.search(answer)
            if head.get("upload") and made:
                uploads[head["upload"]] = made.group(1).decode()
            count += 1
        return count

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] not in CHANGING:
            return self.app(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        head = {
            "method": environ["REQUEST_METHOD"],
            # The raw path: the decoded one can not tell an encoded slash.
            "path": environ["PATH_INFO"].encode("latin-1").decode(),
            "base": f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}",
            "query": environ.get("QUERY_STRING", ""),
            "headers": [
                [name[5:].replace("_", "-"), value]
                for name, value in environ.items()
                if name.startswith("HTTP_")
            ],
        }
        if environ.get("CONTENT_TYPE"):
            head["headers"].append(["Content-Type", environ["CONTENT_TYPE"]])
        with self.changing:
            if not self.journal.reserve(head, body):
                start_response("507 Insufficient Storage", [("Content-Type", "application/xml")])
                return [FULL]
            answer, status, headers = run_wsgi_app(self.app, environ, buffered=True)
            answer = b"".join(answer)
            if status.startswith("2"):
                made = UPLOAD_ID.search(answer)
                # Only the answer that begins an upload says an id that did not exist before.
                if made and environ["REQUEST_METHOD"] == "POST" and "uploads" in head["query"]:
                    head["upload"] = made.group(1).decode()
                self.journal.append(head, body)
            self.journal.release()
        start_response(status, list(headers))
        return [answer]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--bucket", help="is made if it is not there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.environ["MOTO_PORT"] = str(arguments.port)

    moto = DomainDispatcherApplication(create_backend_app)
    app = Durable(moto, Journal(arguments.journal))
    if app.replay() == 0 and arguments.bucket:
        environ = create_environ(
            path=f"/{arguments.bucket}",
            base_url=f"http://127.0.0.1:{arguments.port}",
            method="PUT",
        )
        _, status, _ = run_wsgi_app(app, environ, buffered=True)
        if not status.startswith("2"):
            sys.exit(f"the bucket {arguments.bucket} can not be made: {status}")
    run_simple(
        "127.0.0.1",
        arguments.port,
        app,
        threaded=True,
        request_handler=MotoRequestHandler,
    )


if __name__ == "__main__":
    main()
