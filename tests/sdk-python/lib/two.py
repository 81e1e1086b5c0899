"""One server with two instances, `acme` and `shop`, that have the same users, rooms and message ids."""

import base64
import http.server
import json
import threading
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from lib.server import Server
from lib.token import member, sign_with

SECRETS = {"acme": "a" * 40, "shop": "s" * 40}
API_KEYS = {"acme": "gb6_acme_" + "1" * 32, "shop": "gb6_shop_" + "2" * 32}
ALL = [{"channels": ["*"], "match": "wildcard", "allow": ["sub", "pub", "prs", "hst"]}]


def _base64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Provider:
    """An identity provider with a key of its own."""

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())

    def jwk(self, kid):
        point = self._key.public_key().public_numbers()
        x, y = (_base64(number.to_bytes(32, "big")) for number in (point.x, point.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "kid": kid}

    def sign(self, kid, claims):
        parts = [json.dumps(part).encode() for part in ({"alg": "ES256", "kid": kid}, claims)]
        body = ".".join(_base64(part) for part in parts)
        mark = self._key.sign(body.encode(), ec.ECDSA(hashes.SHA256()))
        mark = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(mark))
        return f"{body}.{_base64(mark)}"


class KeySet:
    """What a provider serves at the URL of its key set: keys with these ids."""

    def __init__(self, provider, kids):
        text = json.dumps({"keys": [provider.jwk(kid) for kid in kids]}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def _instance(name, more):
    return f"""
[instances.{name}]
keys = [{{ id = "{name}.main", secret_file = "{name}.secret" }}]
api_keys = ["{API_KEYS[name]}"]
user_status_ttl = "1h"
{more}
[instances.{name}.namespaces.room]
presence = true
join_leave = true
force_join_leave = true
allow_prefix = "member"
"""


def start(name, keys_of_shop):
    """The server. Connections without a host name of an instance are `acme`'s, the namespace `secret`
    is `shop`'s alone, and so is the key set."""
    text = _instance("acme", "") + _instance("shop", f'jwks_url = "{keys_of_shop}"')
    text += "[instances.shop.namespaces.secret]\npresence = true\n"
    files = {"dev.toml": text, "acme.secret": SECRETS["acme"], "shop.secret": SECRETS["shop"]}
    return Server(name, ["--config", "dev.toml", "--default-instance", "acme"], files)


def claims(user, **more):
    """Claims of a user who may do everything."""
    return member(user, **{"caps": ALL, **more})


def token(instance, user, **more):
    """A good token of an instance."""
    return sign_with(SECRETS[instance], {"kid": f"{instance}.main"}, claims(user, **more))


def channel_token(secret, kid, user, channel):
    """A subscription token."""
    head = {} if kid is None else {"kid": kid}
    return sign_with(secret, head, {"sub": user, "channel": channel, "exp": int(time.time()) + 600})
