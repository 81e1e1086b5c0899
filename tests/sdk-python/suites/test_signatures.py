"""Tokens that are signed with private keys: ES256, RS256 and EdDSA, and by a key of a key set."""

import asyncio
import base64
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lib import conformance
from lib.client import over_encodings
from lib.conformance import proves
from lib.server import PATIENCE, Server
from lib.token import member
from lib.two import KeySet, Provider

KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(65537, 2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def signature(alg, body):
    key = KEYS[alg]
    if alg == "EdDSA":
        return key.sign(body)
    if alg == "RS256":
        return key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    parts = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA256())))
    return b"".join(part.to_bytes(32, "big") for part in parts)


def signed(alg, kid, claims):
    """A token by one of the private keys."""

    def text(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = ".".join(text(json.dumps(part).encode()) for part in ({"alg": alg, "kid": kid}, claims))
    return f"{body}.{text(signature(alg, body.encode()))}"


@over_encodings("signatures")
class Signatures:
    @classmethod
    def setUpClass(cls):
        cls.provider = Provider()
        keys = KeySet(cls.provider, ["rotated"])
        cls.addClassCleanup(keys.stop)
        files = {
            f"{alg}.pem": key.public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode()
            for alg, key in KEYS.items()
        }
        listed = ", ".join(
            f'{{ id = "{alg}", algorithm = "{alg}", public_key_file = "{alg}.pem" }}' for alg in KEYS
        )
        files["dev.toml"] = (
            f'[instances.demo]\npublic_keys = [{listed}]\njwks_url = "{keys.url}"\n'
            "[instances.demo.namespaces.room]\n"
        )
        cls.server = Server(f"sdk-python-{cls.suite}", ["--config", "dev.toml"], files)
        cls.addClassCleanup(cls.server.stop)
        cls.addClassCleanup(conformance.write, cls.suite)

    @proves("signatures")
    async def test_tokens_by_private_keys_and_by_a_key_set_are_good_for_everything(self):
        ways = {alg: (lambda claims, alg=alg: signed(alg, alg, claims)) for alg in KEYS}
        ways["rotated"] = lambda claims: self.provider.sign("rotated", claims)
        for kid, make in ways.items():
            asked = asyncio.Event()

            async def renewed(make=make, asked=asked):
                asked.set()
                return make(member("alice"))

            client = await self.connect(None, token=make(member("alice", 2)), get_token=renewed)
            room = await self.room(client, self.fresh(f"signed-{kid}"), join_leave=False)
            await client.publish(room.channel, self.encoding.encode({"by": kid}))
            await room.count(1)
            await asyncio.wait_for(asked.wait(), PATIENCE)

    @proves("signatures")
    async def test_a_signature_by_another_key_is_refused(self):
        stranger = Provider()
        for token in (
            stranger.sign("rotated", member("alice")),
            stranger.sign("ES256", member("alice")),
            signed("EdDSA", "ES256", member("alice")),
        ):
            client = self.client(None, token=token)
            await client.connect()
            self.assertEqual((await client.log.next("disconnected")).code, 3500)
