//! Documents that clients name instead of sending them, on every transport. Automatic persisted queries: a document that
//! was found good once is kept by its SHA-256 for everyone. Trusted documents: with a list of them nothing else runs.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    sync::Arc,
};

use async_graphql_parser::parse_query;
use moka::future::Cache;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{request::OperationRequest, token_limits};
use crate::error::{Code, Error};

/// How much text is kept by its hash, in bytes.
const KEPT_BYTES: u64 = 4 << 20;
/// What a document weighs beside its text, in bytes: at most 8,192 of them are kept.
const WEIGHT_BYTES: usize = 512;
/// The longest name of a document, in bytes. A hash has 64.
const NAME_MAX: usize = 256;
/// The one version of Apollo's protocol.
const VERSION: u64 = 1;
/// What clients look for before they send the whole document.
const NOT_FOUND: &str = "PersistedQueryNotFound";
/// The most documents of a list.
const TRUSTED_MAX: usize = 10_000;
/// What the persisted-query manifest of Apollo's tools says it is.
const MANIFEST: &str = "apollo-persisted-query-manifest";

/// The documents that may be named. Cheap to clone; all clones are one.
#[derive(Clone)]
pub enum PersistedQueries {
    /// Whatever was sent with its hash and found good.
    Automatic(Cache<String, Arc<str>>),
    /// These and no others.
    Trusted(TrustedDocuments),
}

/// The document of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its text.
    pub text: Arc<str>,
    /// The hash by which it is to be kept, once it is found good.
    keep: Option<String>,
}

impl PersistedQueries {
    /// None yet, or the listed ones for ever.
    pub fn new(trusted: Option<TrustedDocuments>) -> Self {
        let weigher =
            |_: &String, text: &Arc<str>| u32::try_from(text.len() + WEIGHT_BYTES).unwrap_or(u32::MAX);
        match trusted {
            Some(trusted) => Self::Trusted(trusted),
            None => Self::Automatic(Cache::builder().max_capacity(KEPT_BYTES).weigher(weigher).build()),
        }
    }

    /// The document that a request sends or names.
    ///
    /// # Errors
    /// PERSISTED_QUERY_NOT_FOUND for a hash that is not known, PERSISTED_QUERY_REQUIRED for a document that is not listed
    /// where only those run, BAD_REQUEST where there is neither, where a name has the wrong shape or is that of another
    /// document.
    pub async fn document(&self, incoming: &OperationRequest) -> Result<Document, Error> {
        let name = name(incoming)?;
        // Some clients send an empty text beside a hash.
        let text = incoming.query.as_deref().filter(|text| name.is_none() || !text.is_empty());
        match (self, text, name) {
            (_, None, None) => Err(bad("`query` is missing")),
            (Self::Automatic(_), Some(text), None) => Ok(Document { text: text.into(), keep: None }),
            (Self::Automatic(_), Some(text), Some(name)) => {
                same(name, &hash(text))?;
                Ok(Document { text: text.into(), keep: Some(name.to_owned()) })
            }
            (Self::Automatic(kept), None, Some(name)) => {
                let text = kept
                    .get(name)
                    .await
                    .ok_or_else(|| Error::new(Code::PersistedQueryNotFound, NOT_FOUND))?;
                Ok(Document { text, keep: None })
            }
            (Self::Trusted(listed), text, name) => {
                Ok(Document { text: listed.find(text, name)?, keep: None })
            }
        }
    }

    /// Keeps a document, which was found good, by the hash that came with it.
    pub async fn keep(&self, document: Document) {
        if let (Self::Automatic(kept), Some(hash)) = (self, document.keep) {
            kept.insert(hash, document.text).await;
        }
    }
}

/// What Apollo's clients say beside an operation.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistedQuery<'a> {
    version: u64,
    sha256_hash: &'a str,
}

/// By what name a request calls its document: `documentId` as GraphQL over HTTP has it, or the hash in
/// `extensions.persistedQuery`.
fn name(incoming: &OperationRequest) -> Result<Option<&str>, Error> {
    let by_id = incoming.document_id.as_deref().map(|id| id.strip_prefix("sha256:").unwrap_or(id));
    let by_hash = incoming.extensions.get("persistedQuery").filter(|value| !value.is_null());
    let by_hash = by_hash.map(PersistedQuery::deserialize).transpose().ok();
    let by_hash = by_hash.filter(|it| it.as_ref().is_none_or(|it| it.version == VERSION));
    let by_hash = by_hash
        .ok_or_else(|| bad("`extensions.persistedQuery` must be {version: 1, sha256Hash: a string}"))?;
    let by_hash = by_hash.map(|it| it.sha256_hash);
    if let (Some(id), Some(hash)) = (by_id, by_hash) {
        same(id, hash)?;
    }
    match by_id.or(by_hash) {
        Some(name) if name.is_empty() || name.len() > NAME_MAX => {
            Err(bad(format!("the name of a document has 1 to {NAME_MAX} bytes")))
        }
        name => Ok(name),
    }
}

fn same(name: &str, of: &str) -> Result<(), Error> {
    if name == of { Ok(()) } else { Err(bad("the hash is that of another document")) }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// The SHA-256 of a text, as 64 hexadecimal digits in lower case.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes every write");
        digits
    })
}

/// The only documents that run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustedDocuments(Arc<Listed>);

#[derive(Debug)]
struct Listed {
    /// By the ids of the list, and by their hashes.
    by_name: HashMap<String, Arc<str>>,
    texts: HashSet<Arc<str>>,
}

/// A list of documents that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    /// Not what it should be.
    #[error("expected a JSON object of ids and documents, or Apollo's persisted-query manifest: {0}")]
    Shape(String),
    /// A document that could never run.
    #[error("the document of id \"{id}\" is not GraphQL: {reason}")]
    Document {
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
}

/// The manifest that Apollo's tools write.
#[derive(Deserialize)]
struct Manifest {
    format: String,
    version: u64,
    operations: Vec<ManifestOperation>,
}

#[derive(Deserialize)]
struct ManifestOperation {
    id: String,
    body: String,
}

impl TrustedDocuments {
    /// Reads a list: an object of ids and documents, or the persisted-query manifest of Apollo's tools.
    ///
    /// # Errors
    /// Where it is neither, is empty, holds more than 10,000 documents, or one that does not parse.
    pub fn read(json: &str) -> Result<Self, InvalidList> {
        let entries = entries(json)?;
        if !(1..=TRUSTED_MAX).contains(&entries.len()) {
            return Err(InvalidList::Shape(format!(
                "it has {} documents, not 1 to {TRUSTED_MAX}",
                entries.len()
            )));
        }
        let (mut by_name, mut texts) = (HashMap::new(), HashSet::new());
        let entries = entries.into_iter().map(|(id, text)| (id, Arc::<str>::from(text))).collect::<Vec<_>>();
        for (id, text) in &entries {
            check(id, text)?;
            by_name.insert(hash(text), text.clone());
            texts.insert(text.clone());
        }
        // What the list says goes before what we say.
        by_name.extend(entries);
        Ok(Self(Arc::new(Listed { by_name, texts })))
    }

    /// How many documents there are.
    pub fn count(&self) -> usize {
        self.0.texts.len()
    }

    fn find(&self, text: Option<&str>, name: Option<&str>) -> Result<Arc<str>, Error> {
        let required = || Error::new(Code::PersistedQueryRequired, "only listed documents run here");
        let sent = text.map(|text| self.0.texts.get(text).ok_or_else(required)).transpose()?;
        let named = name.map(|name| self.0.by_name.get(name).ok_or_else(required)).transpose()?;
        if let (Some(sent), Some(named)) = (sent, named) {
            same(named, sent)?;
        }
        sent.or(named).cloned().ok_or_else(required)
    }
}

fn entries(json: &str) -> Result<Vec<(String, String)>, InvalidList> {
    let shape = |error: serde_json::Error| InvalidList::Shape(error.to_string());
    let object: Map<String, Value> = serde_json::from_str(json).map_err(shape)?;
    if !object.get("operations").is_some_and(Value::is_array) {
        let map: HashMap<String, String> = serde_json::from_value(object.into()).map_err(shape)?;
        return Ok(map.into_iter().collect());
    }
    let manifest: Manifest = serde_json::from_value(object.into()).map_err(shape)?;
    if (manifest.format.as_str(), manifest.version) != (MANIFEST, VERSION) {
        return Err(InvalidList::Shape(format!("its format is not {MANIFEST}, version {VERSION}")));
    }
    Ok(manifest.operations.into_iter().map(|operation| (operation.id, operation.body)).collect())
}

fn check(id: &str, text: &str) -> Result<(), InvalidList> {
    let wrong = |reason: String| {
        let id = id.chars().take(80).collect();
        InvalidList::Document { id, reason: reason.lines().next().unwrap_or_default().to_owned() }
    };
    if id.is_empty() || id.len() > NAME_MAX {
        return Err(wrong(format!("an id has 1 to {NAME_MAX} bytes")));
    }
    token_limits::check(text).map_err(|error| wrong(error.message().to_owned()))?;
    parse_query(text).map(drop).map_err(|_| wrong("it does not parse".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "{ __typename }";

    fn asked(query: Option<&str>, document_id: Option<&str>, persisted: Value) -> OperationRequest {
        let extensions = Map::from_iter([("persistedQuery".to_owned(), persisted)]);
        let (query, document_id) = (query.map(Into::into), document_id.map(Into::into));
        OperationRequest { query, document_id, extensions, ..OperationRequest::default() }
    }

    fn apollo(hash: &str) -> Value {
        json!({ "version": 1, "sha256Hash": hash })
    }

    async fn code(persisted: &PersistedQueries, incoming: OperationRequest) -> Code {
        persisted.document(&incoming).await.expect_err("refused").code()
    }

    #[test]
    fn a_hash_is_what_other_programs_compute() {
        assert_eq!(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[tokio::test]
    async fn a_document_is_known_by_its_hash_once_it_is_kept_and_not_before() {
        let persisted = PersistedQueries::new(None);
        let named = || asked(None, None, apollo(&hash(TEXT)));
        assert_eq!(code(&persisted, named()).await, Code::PersistedQueryNotFound);
        let sent =
            persisted.document(&asked(Some(TEXT), None, apollo(&hash(TEXT)))).await.expect("its hash fits");
        assert_eq!(
            code(&persisted, named()).await,
            Code::PersistedQueryNotFound,
            "nobody has found it good yet"
        );
        persisted.keep(sent).await;
        for incoming in [
            named(),
            asked(Some(""), None, apollo(&hash(TEXT))),
            asked(None, Some(&hash(TEXT)), Value::Null),
            asked(None, Some(&format!("sha256:{}", hash(TEXT))), Value::Null),
            asked(None, Some(&hash(TEXT)), apollo(&hash(TEXT))),
        ] {
            assert_eq!(&*persisted.document(&incoming).await.expect("known").text, TEXT);
        }
        let plain = persisted.document(&asked(Some("{ a }"), None, Value::Null)).await.expect("sent");
        persisted.keep(plain).await;
        assert_eq!(
            code(&persisted, asked(None, Some(&hash("{ a }")), Value::Null)).await,
            Code::PersistedQueryNotFound
        );
    }

    #[tokio::test]
    async fn a_name_of_the_wrong_shape_or_of_another_document_is_refused() {
        let persisted = PersistedQueries::new(None);
        let long = "x".repeat(NAME_MAX + 1);
        for incoming in [
            asked(None, None, Value::Null),
            asked(Some(TEXT), None, apollo(&hash("{ a }"))),
            asked(Some(TEXT), None, apollo(&hash(TEXT).to_uppercase())),
            asked(Some(TEXT), Some("another"), Value::Null),
            asked(None, Some("another"), apollo(&hash(TEXT))),
            asked(None, None, json!({ "version": 2, "sha256Hash": hash(TEXT) })),
            asked(None, None, json!({ "version": "1", "sha256Hash": hash(TEXT) })),
            asked(None, None, json!({ "version": 1 })),
            asked(None, None, json!({ "version": 1, "sha256Hash": 7 })),
            asked(None, None, json!("hash")),
            asked(None, None, json!([])),
            asked(None, None, apollo("")),
            asked(None, None, apollo(&long)),
            asked(None, Some(""), Value::Null),
        ] {
            assert_eq!(code(&persisted, incoming).await, Code::BadRequest);
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_in_bytes_and_in_entries() {
        for (count, padding, entries_max) in [(20_000, 0, 8_192), (200, 100_000, 41)] {
            let persisted = PersistedQueries::new(None);
            let PersistedQueries::Automatic(kept) = &persisted else { panic!("automatic") };
            for number in 0..count {
                let text: Arc<str> = format!("{{ a{number} }} # {}", "x".repeat(padding)).into();
                persisted.keep(Document { keep: Some(hash(&text)), text }).await;
            }
            kept.run_pending_tasks().await;
            assert!(
                kept.weighted_size() <= KEPT_BYTES && kept.entry_count() <= entries_max,
                "{}",
                kept.entry_count()
            );
            assert!(kept.entry_count() > 0);
        }
    }

    #[tokio::test]
    async fn with_a_list_only_what_is_listed_runs() {
        let listed = TrustedDocuments::read(&json!({ "one": TEXT, "two": "{ me { id } }" }).to_string())
            .expect("a list");
        assert_eq!(listed.count(), 2);
        let persisted = PersistedQueries::new(Some(listed));
        for incoming in [
            asked(Some(TEXT), None, Value::Null),
            asked(None, Some("one"), Value::Null),
            asked(None, None, apollo("one")),
            asked(None, None, apollo(&hash(TEXT))),
            asked(Some(TEXT), Some("one"), Value::Null),
            asked(Some(TEXT), None, apollo(&hash(TEXT))),
        ] {
            assert_eq!(&*persisted.document(&incoming).await.expect("listed").text, TEXT);
        }
        for incoming in [
            asked(Some("{ __typename  }"), None, Value::Null),
            asked(Some("{ a }"), None, apollo(&hash("{ a }"))),
            asked(None, Some("three"), Value::Null),
            asked(None, None, apollo(&hash("{ a }"))),
            asked(Some("{ a }"), Some("one"), Value::Null),
        ] {
            assert_eq!(code(&persisted, incoming).await, Code::PersistedQueryRequired);
        }
        assert_eq!(code(&persisted, asked(Some(TEXT), Some("two"), Value::Null)).await, Code::BadRequest);
    }

    #[test]
    fn both_kinds_of_lists_are_read_and_others_refused() {
        let operations =
            json!([{ "id": "one", "name": "N", "type": "query", "body": "query N { __typename }" }]);
        let manifest = json!({ "format": MANIFEST, "version": 1, "operations": operations });
        assert_eq!(TrustedDocuments::read(&manifest.to_string()).map(|list| list.count()), Ok(1));
        for bad in [
            "".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            json!({ "a": 1 }).to_string(),
            json!({ "format": "other", "version": 1, "operations": operations }).to_string(),
            json!({ "format": MANIFEST, "version": 2, "operations": operations }).to_string(),
            json!({ "format": MANIFEST, "version": 1, "operations": [{ "id": "one" }] }).to_string(),
            json!({ "a": "{ a" }).to_string(),
            json!({ "a": "{".repeat(100_000) }).to_string(),
            json!({ "": "{ a }" }).to_string(),
            json!((0..=TRUSTED_MAX).map(|n| (n.to_string(), TEXT)).collect::<HashMap<_, _>>()).to_string(),
        ] {
            let refused = TrustedDocuments::read(&bad).expect_err(&bad[..bad.len().min(60)]).to_string();
            assert_eq!(refused.lines().count(), 1, "{refused}");
        }
    }
}
