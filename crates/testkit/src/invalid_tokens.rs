//! Access tokens that must be refused: forged, damaged, or correctly signed with claims that are not
//! acceptable. The tests of the guard and of the whole program verify the same list.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Map, Value, json};

/// PKCS #8 header of an Ed25519 private key; the 32 bytes of the key follow.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const END: &str = "-----END PRIVATE KEY-----";

/// Valid token and keys from which the invalid tokens are derived.
#[derive(Debug)]
pub struct ValidToken<'a> {
    /// A token that is valid now.
    pub token: &'a str,
    /// The private signing keys, newest first, as PEM.
    pub pem: &'a str,
    /// The published key set, as JSON.
    pub jwks: &'a str,
}

/// Token that must be refused.
#[derive(Clone, Debug)]
pub struct InvalidToken {
    /// Defect of the token, for assertion messages.
    pub description: String,
    /// The token.
    pub token: String,
}

impl InvalidToken {
    /// Creates an entry for a token that must be refused.
    pub fn new(description: &str, token: &str) -> Self {
        Self { description: description.to_owned(), token: token.to_owned() }
    }
}

struct TokenForge {
    key: EncodingKey,
    unknown_key: EncodingKey,
    public_key: String,
    header: Value,
    claims: Value,
    token: String,
}

/// Returns all invalid tokens that can be derived from a valid one.
///
/// # Panics
/// If the given token or keys are malformed.
pub fn invalid_tokens(valid: &ValidToken<'_>) -> Vec<InvalidToken> {
    let forge = TokenForge::new(valid);
    let all =
        [forge.algorithms(), forge.keys(), forge.headers(), forge.claims(), forge.times(), forge.damaged()];
    all.into_iter().flatten().map(|(description, token)| InvalidToken { description, token }).collect()
}

/// Description of the defect, and the token.
type Described = (String, String);

impl TokenForge {
    fn new(valid: &ValidToken<'_>) -> Self {
        let newest = valid.pem.split_inclusive(END).next().expect("a key");
        let part = |index| {
            let text = valid.token.split('.').nth(index).expect("a token has three parts");
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
        };
        let jwks: Value = serde_json::from_str(valid.jwks).expect("JSON");
        let forge = Self {
            key: EncodingKey::from_ed_pem(newest.trim().as_bytes()).expect("an Ed25519 key"),
            unknown_key: EncodingKey::from_ed_der(&[&PKCS8_PREFIX[..], &[7; 32]].concat()),
            public_key: jwks["keys"][0]["x"].as_str().expect("a point").to_owned(),
            header: part(0),
            claims: part(1),
            token: valid.token.to_owned(),
        };
        assert_eq!(forge.signed(&forge.header, &forge.claims).split('.').count(), 3);
        forge
    }

    /// Signs any header and claims with the newest key.
    fn signed(&self, header: &Value, claims: &Value) -> String {
        self.signed_text(&header.to_string(), &claims.to_string())
    }

    fn signed_text(&self, header: &str, claims: &str) -> String {
        sign_with(&self.key, Algorithm::EdDSA, header, claims)
    }

    fn with_header(&self, name: &str, value: Value) -> String {
        self.signed(&with(&self.header, name, value), &self.claims)
    }

    fn with_claim(&self, name: &str, value: Value) -> String {
        self.signed(&self.header, &with(&self.claims, name, value))
    }

    fn part(&self, index: usize) -> &str {
        self.token.split('.').nth(index).expect("three parts")
    }

    /// Tokens with another algorithm or none.
    fn algorithms(&self) -> Vec<Described> {
        let mut tokens = Vec::new();
        for alg in ["none", "None", "NONE", "nOnE", ""] {
            let header = encode(&with(&self.header, "alg", json!(alg)));
            tokens.push((format!("alg {alg:?} without a signature"), format!("{header}.{}.", self.part(1))));
            tokens.push((format!("alg {alg:?}, signed"), self.with_header("alg", json!(alg))));
        }
        for (algorithm, name) in
            [(Algorithm::HS256, "HS256"), (Algorithm::HS384, "HS384"), (Algorithm::HS512, "HS512")]
        {
            let header = with(&self.header, "alg", json!(name)).to_string();
            let decoded = URL_SAFE_NO_PAD.decode(&self.public_key).expect("base64url");
            for (secret, what) in
                [(&decoded[..], "the public key"), (self.public_key.as_bytes(), "its text"), (b"", "nothing")]
            {
                let key = EncodingKey::from_secret(secret);
                tokens.push((
                    format!("{name} with {what} as the secret"),
                    sign_with(&key, algorithm, &header, &self.claims.to_string()),
                ));
            }
        }
        for alg in ["RS256", "PS256", "ES256", "Ed25519", "eddsa"] {
            tokens.push((format!("alg {alg}"), self.with_header("alg", json!(alg))));
        }
        tokens
    }

    /// Tokens with an unknown key or a malformed key id.
    fn keys(&self) -> Vec<Described> {
        let claims = self.claims.to_string();
        let header = self.header.to_string();
        let sign_unknown =
            |header: &Value| sign_with(&self.unknown_key, Algorithm::EdDSA, &header.to_string(), &claims);
        let mut tokens = vec![
            (
                "another key under our id".to_owned(),
                sign_with(&self.unknown_key, Algorithm::EdDSA, &header, &claims),
            ),
            (
                "another key under an unknown id".to_owned(),
                sign_unknown(&with(&self.header, "kid", json!("unknown"))),
            ),
        ];
        let jwk = json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": self.public_key,
            "kid": "unknown",
            "alg": "EdDSA",
            "use": "sig",
        });
        for (name, value) in [
            ("jwk", jwk),
            ("jku", json!("https://evil.example/keys.json")),
            ("x5u", json!("https://evil.example/chain.pem")),
            ("x5c", json!(["MIIB"])),
        ] {
            let header = with(&self.header, name, value.clone());
            tokens.push((format!("another key named by {name}, under our id"), sign_unknown(&header)));
            let header = with(&header, "kid", json!("unknown"));
            tokens.push((format!("another key named by {name}, under an unknown id"), sign_unknown(&header)));
        }
        for kid in
            ["", "unknown", "../../../etc/passwd", "' or '1'='1", "/dev/null", "\u{1f511}", "a\u{0}b", "*"]
        {
            tokens.push((format!("kid {kid:?}"), self.with_header("kid", json!(kid))));
        }
        tokens
            .push(("kid of 3,000 characters".to_owned(), self.with_header("kid", json!("k".repeat(3_000)))));
        for kid in [json!(1), json!(null), json!(["a"]), json!({})] {
            tokens.push((format!("kid {kid}"), self.with_header("kid", kid)));
        }
        tokens
    }

    /// Correctly signed tokens with missing or wrong header fields.
    fn headers(&self) -> Vec<Described> {
        let mut tokens = Vec::new();
        for name in ["alg", "typ", "kid"] {
            tokens.push((format!("without {name}"), self.signed(&without(&self.header, name), &self.claims)));
        }
        for typ in ["JWT", "AT+JWT", "application/at+jwt", "", "dpop+jwt"] {
            tokens.push((format!("typ {typ:?}"), self.with_header("typ", json!(typ))));
        }
        for crit in [json!(["exp"]), json!(["b64"]), json!([])] {
            tokens.push((format!("crit {crit}"), self.with_header("crit", crit)));
        }
        let header = self.header.to_string();
        let claims = self.claims.to_string();
        let duplicate = format!("{},\"alg\":\"none\"}}", header.trim_end_matches('}'));
        tokens.push(("alg twice".to_owned(), self.signed_text(&duplicate, &claims)));
        for text in ["", "{}", "[]", "null", "not JSON", "\u{feff}{}"] {
            tokens.push((format!("a header of {text:?}"), self.signed_text(text, &claims)));
        }
        tokens
    }

    /// Correctly signed tokens with missing or wrong claims.
    fn claims(&self) -> Vec<Described> {
        let mut tokens = Vec::new();
        for name in ["iss", "aud", "sub", "sid", "exp", "iat", "jti"] {
            tokens.push((format!("without {name}"), self.signed(&self.header, &without(&self.claims, name))));
            tokens.push((format!("{name} null"), self.with_claim(name, Value::Null)));
        }
        for (name, values) in [
            ("iss", vec![json!("other"), json!(""), json!(["tidings"]), json!("tidings "), json!("TIDINGS")]),
            ("aud", vec![json!("other"), json!(""), json!(["tidings", "other"]), json!(7)]),
            (
                "sub",
                vec![
                    json!("user"),
                    json!(""),
                    json!(1),
                    json!("00000000-0000-0000-0000-00000000000g"),
                    json!("\u{fc}"),
                ],
            ),
            ("sid", vec![json!("session"), json!(7), json!("")]),
            ("jti", vec![json!("id"), json!(0)]),
        ] {
            for value in values {
                tokens.push((format!("{name} {value}"), self.with_claim(name, value)));
            }
        }
        let claims = self.claims.to_string();
        let open = claims.trim_end_matches('}');
        for (name, value) in [
            ("exp", "99999999999"),
            ("sub", "\"00000000-0000-0000-0000-000000000000\""),
            ("iss", "\"tidings\""),
        ] {
            let duplicate = format!("{open},\"{name}\":{value}}}");
            tokens.push((format!("{name} twice"), self.signed_text(&self.header.to_string(), &duplicate)));
        }
        for text in ["", "[]", "null", "7", "not JSON"] {
            tokens.push((format!("claims of {text:?}"), self.signed_text(&self.header.to_string(), text)));
        }
        tokens
    }

    /// Correctly signed tokens with times that are expired, in the future or malformed.
    fn times(&self) -> Vec<Described> {
        let exp = self.claims["exp"].as_i64().expect("a time");
        let iat = self.claims["iat"].as_i64().expect("a time");
        let mut tokens = vec![
            ("exp as a float".to_owned(), self.with_claim("exp", json!(exp as f64))),
            ("exp as text".to_owned(), self.with_claim("exp", json!(exp.to_string()))),
        ];
        for value in
            [json!(iat - 3_600), json!(0), json!(-1), json!(i64::MIN), json!(i64::MAX), json!(u64::MAX)]
        {
            tokens.push((format!("exp {value}"), self.with_claim("exp", value)));
        }
        for value in [json!(1e300), json!("2099-01-01T00:00:00Z"), json!(true), json!([exp]), json!({})] {
            tokens.push((format!("exp {value}"), self.with_claim("exp", value)));
        }
        for value in [json!(iat + 3_600), json!(i64::MAX), json!(i64::MIN), json!("now"), json!(iat as f64)] {
            tokens.push((format!("iat {value}"), self.with_claim("iat", value)));
        }
        for value in [json!(iat + 3_600), json!(i64::MAX), json!("tomorrow"), json!(1.5)] {
            tokens.push((format!("nbf {value}"), self.with_claim("nbf", value)));
        }
        tokens
    }

    /// Damaged tokens and texts that are not tokens.
    fn damaged(&self) -> Vec<Described> {
        let token = &self.token;
        let header = self.part(0);
        let claims = self.part(1);
        let signature = self.part(2);
        let other = encode(&with(&self.claims, "sub", json!("00000000-0000-4000-8000-000000000000")));
        let last = signature.chars().next_back().expect("a signature");
        let next = char::from(u8::try_from(last).expect("ASCII") + 1);
        let non_canonical = format!("{}{next}", &token[..token.len() - 1]);
        let plus = |text: &str| text.replace('-', "+").replace('_', "/");
        let mut tokens: Vec<(&str, String)> = vec![
            ("other claims under the signature", format!("{header}.{other}.{signature}")),
            ("a signature cut by a character", token[..token.len() - 1].to_owned()),
            ("half a signature", token[..token.len() - 43].to_owned()),
            ("no signature", format!("{header}.{claims}.")),
            ("a longer signature", format!("{token}AAAA")),
            ("a signature of zeros", format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
            ("a signature with a stray bit", non_canonical),
            ("padding behind the signature", format!("{token}==")),
            ("padding behind the claims", format!("{header}.{claims}=.{signature}")),
            ("a space inside", format!("{header}. {claims}.{signature}")),
            ("a line break inside", format!("{header}.\n{claims}.{signature}")),
            ("a NUL behind", format!("{token}\0")),
            ("two parts", format!("{header}.{claims}")),
            ("four parts", format!("{token}.{signature}")),
            ("five parts, as if encrypted", format!("{token}.{header}.{claims}")),
            ("the parts in another order", format!("{claims}.{header}.{signature}")),
            ("the token twice", format!("{token}.{token}")),
            ("the token twice, by a comma", format!("{token},{token}")),
            ("in quotes", format!("\"{token}\"")),
            ("upper case", token.to_uppercase()),
            (
                "JSON for a token",
                json!({ "protected": header, "payload": claims, "signature": signature }).to_string(),
            ),
            ("4,097 characters", "a".repeat(4_097)),
            ("a large claim", self.with_claim("more", json!("x".repeat(5_000)))),
            ("a word", "token".to_owned()),
            ("dots", "...".to_owned()),
            ("two dots", "..".to_owned()),
            ("letters of other scripts", "\u{fc}.\u{4f60}.\u{1f511}".to_owned()),
        ];
        if plus(token) != *token {
            tokens.push(("the other base64", plus(token)));
        }
        tokens.into_iter().map(|(what, token)| (what.to_owned(), token)).collect()
    }
}

fn sign_with(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(message.as_bytes(), key, algorithm).expect("the key signs");
    format!("{message}.{signature}")
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn with(value: &Value, name: &str, to: Value) -> Value {
    let mut changed = object(value);
    changed.insert(name.to_owned(), to);
    Value::Object(changed)
}

fn without(value: &Value, name: &str) -> Value {
    let mut changed = object(value);
    changed.remove(name).expect("it was there");
    Value::Object(changed)
}
