//! Signing keys of access tokens: one or two Ed25519 keys, newest first. The newest key signs; both are
//! published, so that tokens signed with the previous key stay valid until they expire.

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

/// Maximum number of keys: the newest and the previous one.
const KEYS_MAX: usize = 2;
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// One or two signing keys, newest first. `Debug` shows only their ids.
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
    /// Generates one key without writing it to a file.
    pub fn generate() -> Self {
        Self(vec![Key::generate()])
    }

    /// Reads the keys from a PEM file of consecutive PKCS#8 blocks, newest first.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, [`Error::Exposed`] if other users have access to it,
    /// and [`Error::Malformed`] if it does not contain one or two Ed25519 keys.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read(path)?, path)
    }

    /// Reads the keys from a file, or creates the file with one new key and mode 0600.
    ///
    /// # Errors
    /// As [`SigningKeys::load`], and [`Error::File`] if the file cannot be created.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        Self::parse(&secret_file::read_or_create(path, || Self::generate().pem())?, path)
    }

    /// Replaces the content of a file by these keys, or creates the file, with mode 0600.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        secret_file::replace(path, &self.pem())
    }

    /// Generates a new newest key, keeps the previous newest one, and removes the one before that. Does
    /// not write a file.
    pub fn rotate(&mut self) {
        self.0.insert(0, Key::generate());
        self.0.truncate(KEYS_MAX);
    }

    /// Signs a token of these claims with the newest key.
    pub fn sign(&self, claims: &Claims) -> String {
        let newest = &self.0[0];
        jsonwebtoken::encode(&token::header(&newest.id), claims, &newest.encoding)
            .expect("signing with Ed25519 cannot fail, and claims serialize to JSON")
    }

    /// Returns the public keys, newest first, as a JSON Web Key Set (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.0.iter().map(Key::jwk).collect();
        json!({ "keys": keys }).to_string()
    }

    /// Signs bytes with the newest key, for tests that forge tokens.
    #[cfg(test)]
    pub(crate) fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer;
        self.0[0].secret.sign(message).to_bytes()
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
            let end = end
                .ok_or_else(|| malformed("expected PEM blocks of private keys (PKCS#8) and nothing else"))?;
            let (block, after) = rest.split_at(end + END.len());
            let key = SigningKey::from_pkcs8_pem(block).map_err(|_| {
                malformed(&format!("block {} is not an Ed25519 key in PKCS#8", keys.len() + 1))
            })?;
            keys.push(Key::new(key));
            rest = after.trim_start();
        }
        match keys.len() {
            0 => Err(malformed("contains no key")),
            1..=KEYS_MAX => Ok(Self(keys)),
            _ => Err(malformed("contains more than two keys")),
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
        getrandom::fill(&mut seed).expect("the system provides random bytes");
        Self::new(SigningKey::from_bytes(&seed))
    }

    fn new(secret: SigningKey) -> Self {
        let public = URL_SAFE_NO_PAD.encode(secret.verifying_key().as_bytes());
        // RFC 7638 hashes the required members in alphabetical order, without white space.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#));
        let der = secret.to_pkcs8_der().expect("an Ed25519 key encodes to PKCS#8");
        Self {
            id: URL_SAFE_NO_PAD.encode(thumbprint),
            public,
            encoding: EncodingKey::from_ed_der(der.as_bytes()),
            secret,
        }
    }

    fn pem(&self) -> String {
        let pem = self.secret.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key encodes to PKCS#8");
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::{Caller, KeySet, Rejection};

    const NOW_S: i64 = 1_800_000_000;

    fn ids(keys: &SigningKeys) -> Vec<String> {
        let set: Value = serde_json::from_str(&keys.jwks()).expect("json");
        let ids = set["keys"].as_array().expect("a list").iter();
        ids.map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
    }

    fn claims() -> Claims {
        Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), NOW_S, 300)
    }

    /// Verifies a token with a newly fetched key set.
    async fn verify(keys: &SigningKeys, token: &str) -> Result<Caller, Rejection> {
        KeySet::of(keys).verify(token, "issuer", NOW_S).await
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("signing.pem");
        (folder, path)
    }

    #[tokio::test]
    async fn a_token_stays_valid_after_one_rotation_and_not_after_two() {
        let mut keys = SigningKeys::generate();
        let old = keys.sign(&claims());
        let first = ids(&keys);
        keys.rotate();
        assert_eq!(ids(&keys)[1..], first);
        assert!(verify(&keys, &old).await.is_ok());
        assert!(verify(&keys, &keys.sign(&claims())).await.is_ok());
        let second = ids(&keys);
        keys.rotate();
        assert_eq!(ids(&keys)[1..], second[..1]);
        assert_eq!(verify(&keys, &old).await, Err(Rejection::Invalid));
    }

    #[tokio::test]
    async fn saved_keys_are_loaded_unchanged() {
        let (_folder, path) = file();
        let mut keys = SigningKeys::load_or_create(&path).expect("created");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(ids(&SigningKeys::load_or_create(&path).expect("read")), ids(&keys));
        keys.rotate();
        keys.save(&path).expect("saved");
        let loaded = SigningKeys::load(&path).expect("read");
        assert_eq!(ids(&loaded), ids(&keys));
        assert!(verify(&keys, &loaded.sign(&claims())).await.is_ok());
    }

    #[test]
    fn a_file_accessible_to_other_users_is_refused() {
        let (_folder, path) = file();
        SigningKeys::load_or_create(&path).expect("created");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(matches!(SigningKeys::load(&path), Err(Error::Exposed { mode: 0o644, .. })));
        assert!(matches!(SigningKeys::load_or_create(&path), Err(Error::Exposed { .. })));
    }

    #[test]
    fn a_file_without_one_or_two_keys_is_refused() {
        let (_folder, path) = file();
        let key = SigningKeys::generate().pem();
        let other = key.replace("PRIVATE", "PUBLIC");
        let truncated = &key[..key.len() / 2];
        let noise = format!("{BEGIN}\nbm90IGEga2V5\n{END}\n");
        for (text, reason) in [
            ("", "contains no key"),
            (" \n", "contains no key"),
            (&key.repeat(3), "more than two"),
            (&other, "expected PEM"),
            (truncated, "expected PEM"),
            (&format!("{key}and more"), "expected PEM"),
            (&format!("{key}{noise}"), "block 2"),
        ] {
            secret_file::replace(&path, text).expect("written");
            let error = SigningKeys::load(&path).expect_err("refused").to_string();
            assert!(error.contains(reason) && error.contains("signing.pem"), "{error}");
        }
        assert!(SigningKeys::load(&path.with_file_name("absent")).is_err());
        secret_file::replace(&path, &format!("\n{key}\r\n\n{key}")).expect("written");
        assert_eq!(ids(&SigningKeys::load(&path).expect("read")).len(), 2, "blank lines are ignored");
    }

    #[test]
    fn a_key_generated_by_openssl_is_read_and_identified_by_its_thumbprint() {
        // The key of RFC 8037, appendix A, in the form of `openssl genpkey -algorithm ed25519`.
        let (_folder, path) = file();
        let body = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
        secret_file::replace(&path, &format!("{BEGIN}\n{body}\n{END}\n")).expect("written");
        let set: Value = serde_json::from_str(&SigningKeys::load(&path).expect("read").jwks()).expect("json");
        let expected = serde_json::json!({ "keys": [{
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            "use": "sig",
            "alg": "EdDSA",
        }]});
        assert_eq!(set, expected);
    }

    #[test]
    fn debug_output_contains_no_secret_key() {
        let keys = SigningKeys::generate();
        let secret = &keys.0[0].secret;
        let shown = format!("{keys:?} {keys:#?}");
        assert!(!shown.contains(&format!("{:?}", secret.as_bytes())), "{shown}");
        assert!(!shown.contains(&URL_SAFE_NO_PAD.encode(secret.as_bytes())), "{shown}");
        assert!(shown.contains(&keys.0[0].id), "{shown}");
    }
}
