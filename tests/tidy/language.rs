//! Plain technical English: words and phrases that the project does not use, and docs that open with a
//! question word. Reads whole files, so identifiers, string literals and printed lines are subject to
//! the same list as comments.

use std::path::Path;

use crate::tree::{Text, Violation};

/// Words and phrases to replace by a standard term. Built of pieces, so that this file does not contain them.
const PHRASES: [&[&str]; 8] = [
    &[concat!("an", "ew")],
    &["for", concat!("ev", "er")],
    &[concat!("who", "ever")],
    &[concat!("no", "body")],
    &["is", concat!("to", "ld")],
    &[concat!("le", "ts"), "through"],
    &[concat!("mean", "while")],
    &NO_SUBJECT,
];
/// Refused as an opening of a doc too.
const NO_SUBJECT: [&str; 2] = [concat!("no", "ne"), "yet"];
/// Comparisons with "as … has it": at most this many words stand between the first and the verb.
const SUBJECT_WORDS: usize = 3;
const OPENINGS: [&str; 5] = ["What", "Who", "Whose", "Whether", "How"];
/// Openings allowed per 1,000 docs.
const OPENINGS_MAX: usize = 8;
/// Extensions and names of the files that hold prose.
const EXTENSIONS: [&str; 16] = [
    "rs", "md", "graphql", "proto", "sh", "yml", "yaml", "toml", "js", "jsx", "mjs", "ts", "html", "css",
    "cfg", "example",
];
const NAMES: [&str; 4] = ["Makefile", "run", "run-stack", "Dockerfile"];

fn has_prose(path: &Path) -> bool {
    let named = |name: &str| path.file_name().is_some_and(|own| own == name);
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let prose = EXTENSIONS.contains(&extension) || NAMES.into_iter().any(named);
    // Applied migrations are frozen: their checksums are stored in users' databases.
    prose && !path.iter().any(|folder| folder == "migrations")
}

/// Phrases of the list, wherever they stand in a file.
pub fn phrases(texts: &[Text]) -> Vec<Violation> {
    let texts = texts.iter().filter(|text| has_prose(&text.path));
    texts
        .flat_map(|text| {
            let found = find(&text.text).into_iter();
            found.map(|(line, phrase)| Violation::new(&text.path, line, format!("says \"{phrase}\"")))
        })
        .collect()
}

/// A word in lower case with its line, or the end of a clause.
enum Token {
    Word(usize, String),
    End,
}

fn find(text: &str) -> Vec<(usize, String)> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for clause in tokens.split(|token| matches!(token, Token::End)) {
        let words: Vec<(usize, &str)> = clause
            .iter()
            .filter_map(|token| match token {
                Token::Word(line, word) => Some((*line, word.as_str())),
                Token::End => None,
            })
            .collect();
        for start in 0..words.len() {
            let rest: Vec<&str> = words[start..].iter().map(|(_, word)| *word).collect();
            if let Some(length) = match_length(&rest) {
                found.push((words[start].0, rest[..length].join(" ")));
            }
        }
    }
    found
}

/// Splits into words and clauses. Marks of comments at the start of a line belong to neither.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let prose = ["///", "//!", "//", "#", "*", ">"].iter().find_map(|mark| line.strip_prefix(mark));
        let mut word = String::new();
        for letter in prose.unwrap_or(line).chars().chain([' ']) {
            if letter.is_alphanumeric() || letter == '\'' {
                word.extend(letter.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                tokens.push(Token::Word(index + 1, std::mem::take(&mut word)));
            }
            if ".,;:!?(){}[]=\"|".contains(letter) {
                tokens.push(Token::End);
            }
        }
        if line.is_empty() || line == "//" || line == "///" {
            tokens.push(Token::End);
        }
    }
    tokens
}

/// Number of words of the refused phrase that `words` begin with.
fn match_length(words: &[&str]) -> Option<usize> {
    let fixed = PHRASES.into_iter().find(|phrase| words.starts_with(phrase));
    if let Some(phrase) = fixed {
        return Some(phrase.len());
    }
    let [first, ..] = words else { return None };
    let verb = (2..=SUBJECT_WORDS + 1).find(|at| {
        words.get(*at).is_some_and(|word| ["has", "have"].contains(word))
            && words.get(at + 1).is_some_and(|word| ["it", "them"].contains(word))
    });
    verb.filter(|_| *first == "as").map(|at| at + 2)
}

/// Docs that open with a question word, where they are more than the allowed share of all docs.
pub fn openings(texts: &[Text]) -> Vec<Violation> {
    let mut count = 0;
    let mut bad = Vec::new();
    for text in texts {
        let docs = match text.path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => rust_docs(&text.text),
            Some("graphql") => descriptions(&text.text),
            _ => Vec::new(),
        };
        count += docs.len();
        let asking = docs.into_iter().filter(|(_, doc)| opens_with_question(doc));
        bad.extend(
            asking.map(|(line, doc)| Violation::new(&text.path, line, format!("opens with \"{doc}\""))),
        );
    }
    if bad.len() * 1000 > count * OPENINGS_MAX { bad } else { Vec::new() }
}

fn opens_with_question(doc: &str) -> bool {
    let mut words = doc.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    OPENINGS.contains(&first) || [first.to_lowercase().as_str(), second] == NO_SUBJECT
}

/// First lines of the doc comments.
fn rust_docs(text: &str) -> Vec<(usize, &str)> {
    let mark = |line: &str| ["///", "//!"].into_iter().find(|mark| line.trim_start().starts_with(mark));
    let mut before = None;
    let mut docs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let own = mark(line);
        if own.is_some() && own != before {
            docs.push((index + 1, line.trim_start()[3..].trim()));
        }
        before = own;
    }
    docs
}

/// First lines of a schema's descriptions, of both forms: `"…"` and `"""…"""`.
fn descriptions(text: &str) -> Vec<(usize, &str)> {
    let mut block = false;
    let mut opened = false;
    let mut docs = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line == "\"\"\"" {
            block = !block;
            opened = block;
        } else if opened {
            docs.push((index + 1, line));
            opened = false;
        } else if let Some(doc) = line.strip_prefix('"').filter(|_| !block) {
            docs.push((index + 1, doc));
        }
    }
    docs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str, text: &str) -> [Text; 1] {
        [Text { path: path.into(), text: text.into() }]
    }

    #[test]
    fn phrases_of_the_list_are_found_in_comments_strings_names_and_across_lines() {
        let joined = |phrase: &[&str]| phrase.join(" ");
        for phrase in PHRASES {
            for (path, around) in [
                ("a.rs", "/// It @ works.\nfn f() {}"),
                ("a.rs", "fn f() { g(\"It @ works\") }"),
                ("a.md", "It\n@.\n"),
                ("schema.graphql", "\"It @ works.\"\nscalar A"),
                ("Makefile", "help: ## it @ works"),
            ] {
                let found = phrases(&text(path, &around.replace('@', &joined(phrase))));
                assert_eq!(found.len(), 1, "{path}: {phrase:?}");
            }
        }
        let split = format!("/// It {}\n    /// {} so.", PHRASES[4][0], PHRASES[4][1]);
        assert_eq!(phrases(&text("a.rs", &split)).len(), 1);
        let name = format!("fn seen_by_{}() {{}}", PHRASES[3][0]);
        assert_eq!(phrases(&text("a.rs", &name)).len(), 1);
    }

    #[test]
    fn a_comparison_with_has_it_is_found() {
        for (subject, object) in [("the database", "it"), ("cargo", "them"), ("a lock file", "it")] {
            let verb = if object == "it" { "has" } else { "have" };
            let found = phrases(&text("a.md", &format!("A package as {subject} {verb} {object}.")));
            assert_eq!(found.len(), 1, "{subject}");
        }
    }

    #[test]
    fn plain_sentences_are_not_found() {
        for good in [
            "It renews the lease. Told twice, it stops.",
            "That is: told apart by a name.",
            "A body as large as the limit has its own error.",
            "as the hub; the client has it",
            "The name of every event.",
        ] {
            assert_eq!(phrases(&text("a.md", good)), [], "{good}");
        }
        let frozen = PHRASES[0][0];
        assert_eq!(phrases(&text("auth/migrations/sqlite/1.sql", frozen)), []);
        assert_eq!(phrases(&text("package-lock.json", frozen)), []);
    }

    #[test]
    fn too_many_openings_with_a_question_word_are_found() {
        let asking = "/// Whether it is so.\n/// How it is.\nfn f() {}\n";
        let plain = "/// Returns it.\nfn f() {}\n";
        assert_eq!(openings(&text("a.rs", asking)).len(), 1);
        assert_eq!(openings(&text("a.rs", &[asking, &plain.repeat(999)].concat())), []);
        let schema = "\"Who asks.\"\ntype A {\n  \"\"\"\n  What it is.\n  And how.\n  \"\"\"\n  a: Int\n}";
        assert_eq!(openings(&text("schema.graphql", schema)).len(), 2);
        assert!(opens_with_question(&["None", NO_SUBJECT[1]].join(" ")));
        assert!(!opens_with_question("However it ends, returns it."));
    }
}
