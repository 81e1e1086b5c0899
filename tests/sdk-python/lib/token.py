"""Tokens that tests sign themselves, good and bad ones."""

import base64
import hashlib
import hmac
import json
import time


def _encode(value):
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def header(token):
    """The header of a token."""
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))


def member(user, seconds=3600, **more):
    """Claims of a user who may do everything in `room:*`, and more; what is None is left out."""
    allow = ["sub", "pub", "prs", "hst"]
    claims = {
        "sub": user,
        "exp": int(time.time()) + seconds,
        "caps": [{"channels": ["room:*"], "match": "wildcard", "allow": allow}],
        **more,
    }
    return {name: value for name, value in claims.items() if value is not None}


def sign(server, claims, secret=None, kid=None):
    """A token of the server's demo instance."""
    kid = kid or header(server.ready["tokens"]["alice"])["kid"]
    return sign_with(secret or server.ready["hmac_secret"], {"kid": kid}, claims)


def sign_with(secret, head, claims):
    """A token with this secret, and more in its header."""
    body = f"{_encode({'alg': 'HS256', 'typ': 'JWT', **head})}.{_encode(claims)}"
    mark = hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"


def forge(head, claims):
    """A token with any header and no signature."""
    return f"{_encode(head)}.{_encode(claims)}."
