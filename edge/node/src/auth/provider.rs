//! The cryptography that jsonwebtoken is to use: `ring`, as everywhere in GB6. The crate's own
//! providers would bring a second implementation of everything, one of them with an open advisory.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{self as by_ring, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use ring::{hmac, rsa};

static RING: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // Key sets are read by `core/model`.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `ring` the provider of this process. May be called any number of times; everything in
/// this crate that needs it calls it.
pub fn install_crypto() {
    // An error says that a provider is installed already: this one, since nobody else has one.
    let _ = RING.install_default();
}

fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// How signatures of one algorithm are made with one key.
struct RingSigner {
    algorithm: Algorithm,
    key: SigningKey,
}

enum SigningKey {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn by_ring::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let bytes = key.as_bytes();
    let rejected = |_| ErrorKind::InvalidKeyFormat;
    let rsa = |encoding| {
        let pair = RsaKeyPair::from_der(bytes).map_err(rejected)?;
        Ok::<_, ErrorKind>(SigningKey::Rsa(Box::new(pair), encoding))
    };
    let ecdsa = |kind| {
        let pair = EcdsaKeyPair::from_pkcs8(kind, bytes, &SystemRandom::new());
        Ok::<_, ErrorKind>(SigningKey::Ecdsa(pair.map_err(rejected)?))
    };
    let key = match algorithm {
        Algorithm::RS256 => rsa(&by_ring::RSA_PKCS1_SHA256)?,
        Algorithm::RS384 => rsa(&by_ring::RSA_PKCS1_SHA384)?,
        Algorithm::RS512 => rsa(&by_ring::RSA_PKCS1_SHA512)?,
        Algorithm::ES256 => ecdsa(&by_ring::ECDSA_P256_SHA256_FIXED_SIGNING)?,
        Algorithm::ES384 => ecdsa(&by_ring::ECDSA_P384_SHA384_FIXED_SIGNING)?,
        Algorithm::EdDSA => SigningKey::Ed25519(
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map_err(rejected)?,
        ),
        other => match hmac_of(*other) {
            Some(kind) => SigningKey::Hmac(hmac::Key::new(kind, bytes)),
            None => return Err(ErrorKind::InvalidAlgorithm.into()),
        },
    };
    Ok(Box::new(RingSigner {
        algorithm: *algorithm,
        key,
    }))
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        let failed = |_| signature::Error::new();
        let random = SystemRandom::new();
        match &self.key {
            SigningKey::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            SigningKey::Rsa(pair, encoding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signed)
                    .map_err(failed)?;
                Ok(signed)
            }
            SigningKey::Ecdsa(pair) => {
                let signed = pair.sign(&random, message).map_err(failed)?;
                Ok(signed.as_ref().to_vec())
            }
            SigningKey::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// How signatures of one algorithm are verified with one key.
struct RingVerifier {
    algorithm: Algorithm,
    key: VerifyingKey,
}

enum VerifyingKey {
    Hmac(hmac::Key),
    Rsa(
        rsa::PublicKeyComponents<Vec<u8>>,
        &'static by_ring::RsaParameters,
    ),
    Other(by_ring::UnparsedPublicKey<Vec<u8>>),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let rsa = |parameters| match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let (n, e) = (n.clone(), e.clone());
            Ok(VerifyingKey::Rsa(
                rsa::PublicKeyComponents { n, e },
                parameters,
            ))
        }
        DecodingKeyKind::SecretOrDer(_) => Err(ErrorKind::InvalidKeyFormat),
    };
    let other = |kind: &'static dyn by_ring::VerificationAlgorithm| {
        let bytes = key.try_get_as_bytes()?.to_vec();
        let key = by_ring::UnparsedPublicKey::new(kind, bytes);
        Ok::<_, jsonwebtoken::errors::Error>(VerifyingKey::Other(key))
    };
    let key = match algorithm {
        Algorithm::RS256 => rsa(&by_ring::RSA_PKCS1_2048_8192_SHA256)?,
        Algorithm::RS384 => rsa(&by_ring::RSA_PKCS1_2048_8192_SHA384)?,
        Algorithm::RS512 => rsa(&by_ring::RSA_PKCS1_2048_8192_SHA512)?,
        Algorithm::ES256 => other(&by_ring::ECDSA_P256_SHA256_FIXED)?,
        Algorithm::ES384 => other(&by_ring::ECDSA_P384_SHA384_FIXED)?,
        Algorithm::EdDSA => other(&by_ring::ED25519)?,
        of_secrets => match hmac_of(*of_secrets) {
            Some(kind) => VerifyingKey::Hmac(hmac::Key::new(kind, key.try_get_as_bytes()?)),
            None => return Err(ErrorKind::InvalidAlgorithm.into()),
        },
    };
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        key,
    }))
}

impl Verifier<Vec<u8>> for RingVerifier {
    // ring compares tags in constant time.
    fn verify(
        &self,
        message: &[u8],
        signed: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        match &self.key {
            VerifyingKey::Hmac(key) => hmac::verify(key, message, signed),
            VerifyingKey::Rsa(key, parameters) => key.verify(parameters, message, signed),
            VerifyingKey::Other(key) => key.verify(message, signed),
        }
        .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
