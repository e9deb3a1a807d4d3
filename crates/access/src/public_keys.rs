//! Public keys of an issuer, as it publishes them in a JSON Web Key Set.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;

use crate::BoxError;

/// Maximum number of keys taken from a set. An issuer publishes two.
const KEYS_MAX: usize = 16;

/// Ed25519 keys by id. Sets are equal if ids and keys are.
#[derive(Default, PartialEq)]
pub(crate) struct PublicKeys(HashMap<String, PublicKey>);

struct PublicKey {
    point: [u8; 32],
    decoding: DecodingKey,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.point == other.point
    }
}

impl PublicKeys {
    /// Parses a JSON Web Key Set. Keys of other types are ignored, as RFC 7517 (section 5) asks.
    ///
    /// # Errors
    /// The text is not a key set, or contains no Ed25519 key.
    pub(crate) fn parse(text: &str) -> Result<Self, BoxError> {
        let set: Jwks = serde_json::from_str(text)?;
        let jwks = set.keys.into_iter().filter_map(|value| serde_json::from_value::<Jwk>(value).ok());
        let keys: HashMap<_, _> = jwks.take(KEYS_MAX).filter_map(decode).collect();
        if keys.is_empty() { Err("the key set contains no Ed25519 key".into()) } else { Ok(Self(keys)) }
    }

    /// Returns the key with this id.
    pub(crate) fn get(&self, kid: &str) -> Option<&DecodingKey> {
        self.0.get(kid).map(|key| &key.decoding)
    }

    /// Returns the ids of the keys.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

fn decode(jwk: Jwk) -> Option<(String, PublicKey)> {
    let usable = jwk.kty == "OKP"
        && jwk.crv == "Ed25519"
        && jwk.usage.is_none_or(|usage| usage == "sig")
        && jwk.alg.is_none_or(|alg| alg == "EdDSA");
    // `jsonwebtoken` accepts any bytes as a key and panics at the first verification if they are not 32.
    let point: [u8; 32] = URL_SAFE_NO_PAD.decode(&jwk.x).ok()?.try_into().ok()?;
    let is_weak = VerifyingKey::from_bytes(&point).ok()?.is_weak();
    let decoding = DecodingKey::from_ed_der(&point);
    (usable && !is_weak).then_some((jwk.kid, PublicKey { point, decoding }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKeys;

    #[test]
    fn unusable_keys_are_ignored() {
        let key: serde_json::Value = serde_json::from_str(&SigningKeys::generate().jwks()).expect("json");
        let good = &key["keys"][0];
        let with = |name: &str, value: serde_json::Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let weak = URL_SAFE_NO_PAD.encode([0; 32]);
        for bad in [
            with("kty", "EC".into()),
            with("crv", "X25519".into()),
            with("use", "enc".into()),
            with("alg", "HS256".into()),
            with("x", "AAAA".into()),
            with("x", weak.into()),
            with("x", "not base64url!".into()),
            with("kid", serde_json::Value::Null),
            serde_json::json!("a string"),
        ] {
            let only_bad = serde_json::json!({ "keys": [bad] }).to_string();
            assert!(PublicKeys::parse(&only_bad).is_err(), "{only_bad}");
            let both = serde_json::json!({ "keys": [bad, good] }).to_string();
            assert_eq!(PublicKeys::parse(&both).expect("one key is usable").ids().count(), 1, "{both}");
        }
        for bad in ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":{}}"#] {
            assert!(PublicKeys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sets_differ_in_ids_and_in_keys() {
        let keys = SigningKeys::generate().jwks();
        let set = |jwks: &str| PublicKeys::parse(jwks).expect("a key set");
        assert!(set(&keys) == set(&keys));
        assert!(set(&keys) != set(&SigningKeys::generate().jwks()));
        let mut renamed: serde_json::Value = serde_json::from_str(&keys).expect("json");
        renamed["keys"][0]["kid"] = "another".into();
        assert!(set(&keys) != set(&renamed.to_string()));
        assert!(set(&keys) != PublicKeys::default());
    }
}
