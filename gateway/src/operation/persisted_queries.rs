//! Documents that clients name instead of sending them, on every transport.
//!
//! Automatic persisted queries: a document that was sent with its SHA-256 and passed validation is cached for
//! all clients under that hash. Trusted documents: only the documents of a configured list run, and nothing
//! is cached.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    sync::Arc,
};

use moka::future::Cache;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{request::OperationRequest, token_limits, validation::Validator};
use crate::error::{Code, Error};

/// Capacity of the cache of persisted queries, in bytes.
const CACHE_BYTES: u64 = 4 << 20;
/// Weight of a cache entry in addition to its text, in bytes. It limits the cache to 8,192 entries.
const ENTRY_OVERHEAD_BYTES: usize = 512;
/// Longest name of a document, in bytes. A hash has 64.
const NAME_MAX: usize = 256;
/// Version of Apollo's persisted-query protocol and of its manifest.
const VERSION: u64 = 1;
/// Error message on which Apollo's clients send the whole document. They match this exact text.
const NOT_FOUND: &str = "PersistedQueryNotFound";
/// Most documents of a list.
const TRUSTED_MAX: usize = 10_000;
/// Value of `format` in the persisted-query manifest of Apollo's tools.
const MANIFEST_FORMAT: &str = "apollo-persisted-query-manifest";

/// Documents that clients may name. Cheap to clone; clones share their state.
#[derive(Clone)]
pub enum PersistedQueries {
    /// Cache of the valid documents that clients sent with their hash, by that hash.
    Automatic(Cache<String, Arc<str>>),
    /// Only these documents run.
    Trusted(TrustedDocuments),
}

/// Document of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Text of the document.
    pub text: Arc<str>,
    /// Hash under which the document is cached once it is valid.
    cache_key: Option<String>,
}

impl PersistedQueries {
    /// Creates an empty cache or, with a list of trusted documents, allows exactly that list.
    pub fn new(trusted: Option<TrustedDocuments>) -> Self {
        let weigher = |_: &String, text: &Arc<str>| {
            u32::try_from(text.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        match trusted {
            Some(trusted) => Self::Trusted(trusted),
            None => Self::Automatic(Cache::builder().max_capacity(CACHE_BYTES).weigher(weigher).build()),
        }
    }

    /// Returns the document that a request sends or names.
    ///
    /// # Errors
    /// PERSISTED_QUERY_NOT_FOUND for an unknown hash; PERSISTED_QUERY_REQUIRED for a document that is not in
    /// the list of trusted documents; BAD_REQUEST for a request with neither text nor name, and for a name
    /// that is malformed or belongs to another document.
    pub async fn document(&self, incoming: &OperationRequest) -> Result<Document, Error> {
        let name = parse_name(incoming)?;
        // Some clients send an empty text together with a hash.
        let text = incoming.query.as_deref().filter(|text| name.is_none() || !text.is_empty());
        match (self, text, name) {
            (_, None, None) => Err(bad_request("`query` is missing")),
            (Self::Automatic(_), Some(text), None) => Ok(Document { text: text.into(), cache_key: None }),
            (Self::Automatic(_), Some(text), Some(name)) => {
                require_equal(name, &hash(text))?;
                Ok(Document { text: text.into(), cache_key: Some(name.to_owned()) })
            }
            (Self::Automatic(cache), None, Some(name)) => {
                let text = cache
                    .get(name)
                    .await
                    .ok_or_else(|| Error::new(Code::PersistedQueryNotFound, NOT_FOUND))?;
                Ok(Document { text, cache_key: None })
            }
            (Self::Trusted(trusted), text, name) => {
                Ok(Document { text: trusted.find(text, name)?, cache_key: None })
            }
        }
    }

    /// Caches a valid document under the hash that the client sent with it. Documents are cached only after
    /// validation, so that invalid ones cannot evict those that run.
    pub async fn cache(&self, document: Document) {
        if let (Self::Automatic(cache), Some(hash)) = (self, document.cache_key) {
            cache.insert(hash, document.text).await;
        }
    }
}

/// `extensions.persistedQuery` of a request, as Apollo's clients send it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistedQuery<'a> {
    version: u64,
    sha256_hash: &'a str,
}

/// Parses the name of the requested document: `documentId` of GraphQL over HTTP, or the hash in
/// `extensions.persistedQuery`.
fn parse_name(incoming: &OperationRequest) -> Result<Option<&str>, Error> {
    let by_id = incoming.document_id.as_deref().map(|id| id.strip_prefix("sha256:").unwrap_or(id));
    let by_hash = incoming.extensions.get("persistedQuery").filter(|value| !value.is_null());
    let by_hash = by_hash.map(PersistedQuery::deserialize).transpose().ok();
    let by_hash = by_hash.filter(|it| it.as_ref().is_none_or(|it| it.version == VERSION));
    let by_hash = by_hash.ok_or_else(|| {
        bad_request("`extensions.persistedQuery` must be {version: 1, sha256Hash: a string}")
    })?;
    let by_hash = by_hash.map(|it| it.sha256_hash);
    if let (Some(id), Some(hash)) = (by_id, by_hash) {
        require_equal(id, hash)?;
    }
    match by_id.or(by_hash) {
        Some(name) if name.is_empty() || name.len() > NAME_MAX => {
            Err(bad_request(format!("the name of a document has 1 to {NAME_MAX} bytes")))
        }
        name => Ok(name),
    }
}

fn require_equal(name: &str, expected: &str) -> Result<(), Error> {
    if name == expected { Ok(()) } else { Err(bad_request("the hash belongs to another document")) }
}

fn bad_request(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// Returns the SHA-256 of a text, as 64 hexadecimal digits in lower case.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("writing to a string cannot fail");
        digits
    })
}

/// List of the only documents that may run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustedDocuments(Arc<DocumentList>);

#[derive(Debug)]
struct DocumentList {
    /// Texts by the ids of the list and by their hashes.
    by_name: HashMap<String, Arc<str>>,
    texts: HashSet<Arc<str>>,
}

/// Error of a malformed list of trusted documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    /// The list is neither of the two formats, or has too few or too many documents.
    #[error("expected a JSON object of ids and documents, or Apollo's persisted-query manifest: {0}")]
    Shape(String),
    /// A document cannot run, or its id is malformed.
    #[error("the document of id \"{id}\" is not GraphQL: {reason}")]
    Document {
        /// The document's id.
        id: String,
        /// Description of the first problem found.
        reason: String,
    },
}

/// Persisted-query manifest, as Apollo's tools write it.
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
    /// Parses a list: a JSON object of ids and documents, or the persisted-query manifest of Apollo's tools.
    ///
    /// # Errors
    /// [`InvalidList::Shape`] if the list is neither, is empty or has more than 10,000 documents;
    /// [`InvalidList::Document`] for an id that is malformed or a document that does not parse.
    pub fn parse(json: &str) -> Result<Self, InvalidList> {
        let entries = parse_entries(json)?;
        if !(1..=TRUSTED_MAX).contains(&entries.len()) {
            return Err(InvalidList::Shape(format!(
                "it has {} documents, not 1 to {TRUSTED_MAX}",
                entries.len()
            )));
        }
        let mut by_name = HashMap::new();
        let mut texts = HashSet::new();
        let entries = entries.into_iter().map(|(id, text)| (id, Arc::<str>::from(text))).collect::<Vec<_>>();
        for (id, text) in &entries {
            validate_entry(id, text)?;
            by_name.insert(hash(text), text.clone());
            texts.insert(text.clone());
        }
        // An id of the list takes precedence over an equal hash.
        by_name.extend(entries);
        Ok(Self(Arc::new(DocumentList { by_name, texts })))
    }

    /// Returns the documents of both lists. An id of this one takes precedence.
    pub fn and(&self, other: &Self) -> Self {
        let mut by_name = other.0.by_name.clone();
        by_name.extend(self.0.by_name.clone());
        let texts = self.0.texts.union(&other.0.texts).cloned().collect();
        Self(Arc::new(DocumentList { by_name, texts }))
    }

    /// Returns the number of distinct documents.
    pub fn count(&self) -> usize {
        self.0.texts.len()
    }

    fn find(&self, text: Option<&str>, name: Option<&str>) -> Result<Arc<str>, Error> {
        let required = || Error::new(Code::PersistedQueryRequired, "only trusted documents may run");
        let sent = text.map(|text| self.0.texts.get(text).ok_or_else(required)).transpose()?;
        let named = name.map(|name| self.0.by_name.get(name).ok_or_else(required)).transpose()?;
        if let (Some(sent), Some(named)) = (sent, named) {
            require_equal(named, sent)?;
        }
        sent.or(named).cloned().ok_or_else(required)
    }
}

fn parse_entries(json: &str) -> Result<Vec<(String, String)>, InvalidList> {
    let shape = |error: serde_json::Error| InvalidList::Shape(error.to_string());
    let object: Map<String, Value> = serde_json::from_str(json).map_err(shape)?;
    if !object.get("operations").is_some_and(Value::is_array) {
        let map: HashMap<String, String> = serde_json::from_value(object.into()).map_err(shape)?;
        return Ok(map.into_iter().collect());
    }
    let manifest: Manifest = serde_json::from_value(object.into()).map_err(shape)?;
    if (manifest.format.as_str(), manifest.version) != (MANIFEST_FORMAT, VERSION) {
        return Err(InvalidList::Shape(format!("its format is not {MANIFEST_FORMAT}, version {VERSION}")));
    }
    Ok(manifest.operations.into_iter().map(|operation| (operation.id, operation.body)).collect())
}

fn validate_entry(id: &str, text: &str) -> Result<(), InvalidList> {
    let invalid = |reason: String| {
        let id = id.chars().take(80).collect();
        InvalidList::Document { id, reason: reason.lines().next().unwrap_or_default().to_owned() }
    };
    if id.is_empty() || id.len() > NAME_MAX {
        return Err(invalid(format!("an id has 1 to {NAME_MAX} bytes")));
    }
    token_limits::check(text).map_err(|error| invalid(error.message().to_owned()))?;
    Validator::parse(text).map(drop).map_err(|_| invalid("it does not parse".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "{ __typename }";

    fn request(query: Option<&str>, document_id: Option<&str>, persisted: Value) -> OperationRequest {
        let extensions = Map::from_iter([("persistedQuery".to_owned(), persisted)]);
        let query = query.map(Into::into);
        let document_id = document_id.map(Into::into);
        OperationRequest { query, document_id, extensions, ..OperationRequest::default() }
    }

    fn apollo(hash: &str) -> Value {
        json!({ "version": 1, "sha256Hash": hash })
    }

    async fn code(persisted: &PersistedQueries, incoming: OperationRequest) -> Code {
        persisted.document(&incoming).await.expect_err("the request is rejected").code()
    }

    #[test]
    fn a_hash_is_the_sha_256_of_the_text() {
        assert_eq!(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[tokio::test]
    async fn a_document_is_found_by_its_hash_only_after_it_is_cached() {
        let persisted = PersistedQueries::new(None);
        let named = || request(None, None, apollo(&hash(TEXT)));
        assert_eq!(code(&persisted, named()).await, Code::PersistedQueryNotFound);
        let sent = persisted
            .document(&request(Some(TEXT), None, apollo(&hash(TEXT))))
            .await
            .expect("the hash matches");
        assert_eq!(
            code(&persisted, named()).await,
            Code::PersistedQueryNotFound,
            "the document has not been validated yet"
        );
        persisted.cache(sent).await;
        for incoming in [
            named(),
            request(Some(""), None, apollo(&hash(TEXT))),
            request(None, Some(&hash(TEXT)), Value::Null),
            request(None, Some(&format!("sha256:{}", hash(TEXT))), Value::Null),
            request(None, Some(&hash(TEXT)), apollo(&hash(TEXT))),
        ] {
            assert_eq!(&*persisted.document(&incoming).await.expect("the document is cached").text, TEXT);
        }
        let plain = persisted
            .document(&request(Some("{ a }"), None, Value::Null))
            .await
            .expect("the document is in the request");
        persisted.cache(plain).await;
        assert_eq!(
            code(&persisted, request(None, Some(&hash("{ a }")), Value::Null)).await,
            Code::PersistedQueryNotFound
        );
    }

    #[tokio::test]
    async fn a_malformed_name_or_one_of_another_document_is_rejected() {
        let persisted = PersistedQueries::new(None);
        let long = "x".repeat(NAME_MAX + 1);
        for incoming in [
            request(None, None, Value::Null),
            request(Some(TEXT), None, apollo(&hash("{ a }"))),
            request(Some(TEXT), None, apollo(&hash(TEXT).to_uppercase())),
            request(Some(TEXT), Some("another"), Value::Null),
            request(None, Some("another"), apollo(&hash(TEXT))),
            request(None, None, json!({ "version": 2, "sha256Hash": hash(TEXT) })),
            request(None, None, json!({ "version": "1", "sha256Hash": hash(TEXT) })),
            request(None, None, json!({ "version": 1 })),
            request(None, None, json!({ "version": 1, "sha256Hash": 7 })),
            request(None, None, json!("hash")),
            request(None, None, json!([])),
            request(None, None, apollo("")),
            request(None, None, apollo(&long)),
            request(None, Some(""), Value::Null),
        ] {
            assert_eq!(code(&persisted, incoming).await, Code::BadRequest);
        }
    }

    #[tokio::test]
    async fn the_cache_is_limited_in_bytes_and_in_entries() {
        for (count, padding, entries_max) in [(20_000, 0, 8_192), (200, 100_000, 41)] {
            let persisted = PersistedQueries::new(None);
            let PersistedQueries::Automatic(cache) = &persisted else { panic!("the cache is in use") };
            for number in 0..count {
                let text: Arc<str> = format!("{{ a{number} }} # {}", "x".repeat(padding)).into();
                persisted.cache(Document { cache_key: Some(hash(&text)), text }).await;
            }
            cache.run_pending_tasks().await;
            assert!(
                cache.weighted_size() <= CACHE_BYTES && cache.entry_count() <= entries_max,
                "{}",
                cache.entry_count()
            );
            assert!(cache.entry_count() > 0);
        }
    }

    #[tokio::test]
    async fn only_trusted_documents_run_with_a_list() {
        let trusted = TrustedDocuments::parse(&json!({ "one": TEXT, "two": "{ me { id } }" }).to_string())
            .expect("a valid list");
        assert_eq!(trusted.count(), 2);
        let persisted = PersistedQueries::new(Some(trusted));
        for incoming in [
            request(Some(TEXT), None, Value::Null),
            request(None, Some("one"), Value::Null),
            request(None, None, apollo("one")),
            request(None, None, apollo(&hash(TEXT))),
            request(Some(TEXT), Some("one"), Value::Null),
            request(Some(TEXT), None, apollo(&hash(TEXT))),
        ] {
            assert_eq!(&*persisted.document(&incoming).await.expect("the document is trusted").text, TEXT);
        }
        for incoming in [
            request(Some("{ __typename  }"), None, Value::Null),
            request(Some("{ a }"), None, apollo(&hash("{ a }"))),
            request(None, Some("three"), Value::Null),
            request(None, None, apollo(&hash("{ a }"))),
            request(Some("{ a }"), Some("one"), Value::Null),
        ] {
            assert_eq!(code(&persisted, incoming).await, Code::PersistedQueryRequired);
        }
        assert_eq!(code(&persisted, request(Some(TEXT), Some("two"), Value::Null)).await, Code::BadRequest);
    }

    #[test]
    fn both_list_formats_are_parsed_and_others_rejected() {
        let operations =
            json!([{ "id": "one", "name": "N", "type": "query", "body": "query N { __typename }" }]);
        let manifest = json!({ "format": MANIFEST_FORMAT, "version": 1, "operations": operations });
        assert_eq!(TrustedDocuments::parse(&manifest.to_string()).map(|list| list.count()), Ok(1));
        for bad in [
            "".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            json!({ "a": 1 }).to_string(),
            json!({ "format": "other", "version": 1, "operations": operations }).to_string(),
            json!({ "format": MANIFEST_FORMAT, "version": 2, "operations": operations }).to_string(),
            json!({ "format": MANIFEST_FORMAT, "version": 1, "operations": [{ "id": "one" }] }).to_string(),
            json!({ "a": "{ a" }).to_string(),
            json!({ "a": "{".repeat(100_000) }).to_string(),
            json!({ "": "{ a }" }).to_string(),
            json!((0..=TRUSTED_MAX).map(|n| (n.to_string(), TEXT)).collect::<HashMap<_, _>>()).to_string(),
        ] {
            let error = TrustedDocuments::parse(&bad).expect_err(&bad[..bad.len().min(60)]).to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
