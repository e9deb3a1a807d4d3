//! Signing keys of access tokens: one or two Ed25519 keys. The first key signs; both are published, so that
//! tokens signed with the previous key stay valid until they expire.
//!
//! Where several auth processes read copies of the file, no process may sign with a key that another one does
//! not publish yet. There a rotation takes two steps: [`SigningKeys::publish_next`] adds the next key for
//! verification only, and when every process has read it, [`SigningKeys::sign_with_next`] makes it sign.

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
/// Line before a key that does not sign yet.
const NEXT: &str = "# The next signing key: tidings keygen --rotate=sign";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// One or two signing keys. `Debug` shows only their ids.
#[derive(Clone)]
pub struct SigningKeys {
    /// The key that signs, then the previous or the next one.
    keys: Vec<Key>,
    /// The second key is the next one.
    has_next: bool,
}

/// Error of a rotation step that is not due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// The next key is published already.
    #[error("the next signing key is published already: once every auth has read it, use --rotate=sign")]
    NextExists,
    /// No next key is published.
    #[error("no next signing key is published: use --rotate=publish first")]
    NoNext,
}

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
        Self { keys: vec![Key::generate()], has_next: false }
    }

    /// Reads the keys from a PEM file of consecutive PKCS#8 blocks, the signing key first.
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

    /// Generates a new key that signs from now on, keeps the previous one, and removes the one before that.
    /// For one auth process: tokens of the new key are rejected where only the old file is read. Does not
    /// write a file.
    ///
    /// # Errors
    /// [`RotationError::NextExists`].
    pub fn rotate(&mut self) -> Result<(), RotationError> {
        self.publish_next()?;
        self.sign_with_next()
    }

    /// Generates the next key, which is published but does not sign, and removes the previous key. Does not
    /// write a file.
    ///
    /// # Errors
    /// [`RotationError::NextExists`].
    pub fn publish_next(&mut self) -> Result<(), RotationError> {
        if self.has_next {
            return Err(RotationError::NextExists);
        }
        self.keys.truncate(KEYS_MAX - 1);
        self.keys.push(Key::generate());
        self.has_next = true;
        Ok(())
    }

    /// Makes the next key sign, and keeps the current one as the previous key. Does not write a file.
    ///
    /// # Errors
    /// [`RotationError::NoNext`].
    pub fn sign_with_next(&mut self) -> Result<(), RotationError> {
        if !self.has_next {
            return Err(RotationError::NoNext);
        }
        self.keys.reverse();
        self.has_next = false;
        Ok(())
    }

    /// Signs a token of these claims.
    pub fn sign(&self, claims: &Claims) -> String {
        let signing = &self.keys[0];
        jsonwebtoken::encode(&token::header(&signing.id), claims, &signing.encoding)
            .expect("signing with Ed25519 cannot fail, and claims serialize to JSON")
    }

    /// Returns the public keys, the signing key first, as a JSON Web Key Set (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(Key::jwk).collect();
        json!({ "keys": keys }).to_string()
    }

    /// Signs bytes with the signing key, for tests that forge tokens.
    #[cfg(test)]
    pub(crate) fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer;
        self.keys[0].secret.sign(message).to_bytes()
    }

    fn pem(&self) -> String {
        let mut blocks: Vec<_> = self.keys.iter().map(Key::pem).collect();
        if self.has_next {
            blocks.insert(1, format!("{NEXT}\n"));
        }
        blocks.concat()
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let malformed = |reason: &str| Error::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        let mut keys = Vec::new();
        let mut has_next = false;
        let mut rest = text.trim();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(NEXT).filter(|_| keys.len() == 1 && !has_next) {
                has_next = true;
                rest = after.trim_start();
            }
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
            1..=KEYS_MAX => Ok(Self { keys, has_next }),
            _ => Err(malformed("contains more than two keys")),
        }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
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
        KeySet::of(keys).verify(token, "issuer", NOW_S).await.map(|verified| verified.caller)
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
        keys.rotate().expect("no next key");
        assert_eq!(ids(&keys)[1..], first);
        assert!(verify(&keys, &old).await.is_ok());
        assert!(verify(&keys, &keys.sign(&claims())).await.is_ok());
        let second = ids(&keys);
        keys.rotate().expect("no next key");
        assert_eq!(ids(&keys)[1..], second[..1]);
        assert_eq!(verify(&keys, &old).await, Err(Rejection::Invalid));
    }

    /// Verifies that each of two auth processes publishes the key with which the other one signs.
    async fn agree(one: &SigningKeys, other: &SigningKeys) -> bool {
        verify(one, &other.sign(&claims())).await.is_ok() && verify(other, &one.sign(&claims())).await.is_ok()
    }

    #[tokio::test]
    async fn a_rotation_in_two_steps_is_safe_while_auth_processes_restart_one_after_another() {
        let before = SigningKeys::generate();
        let mut published = before.clone();
        published.publish_next().expect("no next key");
        let mut signing = published.clone();
        signing.sign_with_next().expect("a next key");
        assert!(agree(&before, &published).await, "step 1");
        assert!(agree(&published, &signing).await, "step 2");
        assert!(!agree(&before, &signing).await, "both steps at once");
        assert_eq!(ids(&signing)[1..], ids(&before), "the previous key stays published");
        let mut at_once = before.clone();
        at_once.rotate().expect("no next key");
        assert_eq!((ids(&at_once)[1..].to_vec(), ids(&at_once).len()), (ids(&before), 2));
    }

    #[test]
    fn a_step_out_of_order_changes_nothing() {
        let (_folder, path) = file();
        let mut keys = SigningKeys::load_or_create(&path).expect("created");
        assert_eq!(keys.sign_with_next(), Err(RotationError::NoNext));
        keys.publish_next().expect("no next key");
        keys.save(&path).expect("saved");
        let mut loaded = SigningKeys::load(&path).expect("read");
        let published = ids(&keys);
        assert_eq!(ids(&loaded), published);
        assert_eq!(loaded.publish_next(), Err(RotationError::NextExists));
        assert_eq!(loaded.rotate(), Err(RotationError::NextExists));
        assert_eq!(ids(&loaded), published);
        loaded.sign_with_next().expect("a next key");
        loaded.save(&path).expect("saved");
        let mut loaded = SigningKeys::load(&path).expect("read");
        assert_eq!(ids(&loaded), [published[1].clone(), published[0].clone()]);
        assert_eq!(
            loaded.sign_with_next(),
            Err(RotationError::NoNext),
            "the previous key does not sign again"
        );
    }

    #[tokio::test]
    async fn saved_keys_are_loaded_unchanged() {
        let (_folder, path) = file();
        let mut keys = SigningKeys::load_or_create(&path).expect("created");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(ids(&SigningKeys::load_or_create(&path).expect("read")), ids(&keys));
        keys.rotate().expect("no next key");
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
            (&format!("{NEXT}\n{key}"), "expected PEM"),
            (&format!("{key}{NEXT}\n"), "expected PEM"),
            (&format!("{key}{NEXT}\n{NEXT}\n{key}"), "expected PEM"),
            (&format!("{key}{NEXT}\n{key}{key}"), "more than two"),
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
        let secret = &keys.keys[0].secret;
        let shown = format!("{keys:?} {keys:#?}");
        assert!(!shown.contains(&format!("{:?}", secret.as_bytes())), "{shown}");
        assert!(!shown.contains(&URL_SAFE_NO_PAD.encode(secret.as_bytes())), "{shown}");
        assert!(shown.contains(&keys.keys[0].id), "{shown}");
    }
}
