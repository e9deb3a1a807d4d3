//! The keys that sign access tokens: one or two Ed25519 keys, newest first. The newest signs; both are published, so
//! that tokens of the older one are believed until they end.

use std::{fmt, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use jsonwebtoken::EncodingKey;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Claims, Error, secret_file, token};

/// How many keys there are at most: the newest, and the one before it.
const KEYS_MAX: usize = 2;
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// One or two keys, newest first. Debug shows their ids alone.
#[derive(Clone)]
pub struct SigningKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    public: String,
    secret: SigningKey,
    encoding: EncodingKey,
}

impl SigningKeys {
    /// One new key, in no file yet.
    pub fn generate() -> Self {
        Self(vec![Key::generate()])
    }

    /// Reads the keys of a PEM file: PKCS#8 blocks one after another, newest first.
    ///
    /// # Errors
    /// Where the file is absent, open to others, or does not hold one or two Ed25519 keys.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read(path)?, path)
    }

    /// Reads the keys, or makes the file with one new key, mode 0600.
    ///
    /// # Errors
    /// As [`SigningKeys::load`], and where the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read_or_create(path, || Self::generate().pem())?, path)
    }

    /// Writes the keys, in place of those that the file held.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        secret_file::replace(path, &self.pem())
    }

    /// A new key signs from now on; the one that signed until now is kept, one before it is not. Not saved yet.
    pub fn rotate(&mut self) {
        self.0.insert(0, Key::generate());
        self.0.truncate(KEYS_MAX);
    }

    /// A token with these claims, signed by the newest key.
    pub fn sign(&self, claims: &Claims) -> String {
        let newest = &self.0[0];
        jsonwebtoken::encode(&token::header(&newest.id), claims, &newest.encoding)
            .expect("an Ed25519 key signs, and claims are JSON")
    }

    /// The public keys, newest first, as a JSON Web Key Set (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.0.iter().map(Key::jwk).collect();
        json!({ "keys": keys }).to_string()
    }

    fn pem(&self) -> String {
        self.0.iter().map(Key::pem).collect()
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let malformed = |reason: &str| Error::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        let mut keys = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = rest.find(END).filter(|_| rest.starts_with(BEGIN));
            let end = end.ok_or_else(|| malformed("expected PEM blocks of private keys (PKCS#8) and nothing else"))?;
            let (block, after) = rest.split_at(end + END.len());
            let key = SigningKey::from_pkcs8_pem(block)
                .map_err(|_| malformed(&format!("block {} is no Ed25519 key in PKCS#8", keys.len() + 1)))?;
            keys.push(Key::new(key));
            rest = after.trim_start();
        }
        match keys.len() {
            0 => Err(malformed("holds no key")),
            1..=KEYS_MAX => Ok(Self(keys)),
            _ => Err(malformed("holds more than two keys")),
        }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Key {
    fn generate() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system has randomness");
        Self::new(SigningKey::from_bytes(&seed))
    }

    fn new(secret: SigningKey) -> Self {
        let public = URL_SAFE_NO_PAD.encode(secret.verifying_key().as_bytes());
        // RFC 7638: the required members in alphabetical order, without spaces.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#));
        let der = secret.to_pkcs8_der().expect("an Ed25519 key has a PKCS#8 form");
        Self {
            id: URL_SAFE_NO_PAD.encode(thumbprint),
            public,
            encoding: EncodingKey::from_ed_der(der.as_bytes()),
            secret,
        }
    }

    fn pem(&self) -> String {
        let pem = self.secret.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key has a PKCS#8 form");
        pem.trim_end().to_owned() + "\n"
    }

    fn jwk(&self) -> serde_json::Value {
        json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": self.public,
            "kid": self.id,
            "use": "sig",
            "alg": "EdDSA",
        })
    }
}
