//! Lexical tokens of a document, by section 2.1 of the GraphQL specification, found without allocation.

#![warn(clippy::indexing_slicing, clippy::panic)]

/// Iterator over the tokens of a document. Never fails: the parser checks whether a token is well-formed.
#[derive(Clone)]
pub struct Tokens<'a> {
    rest: &'a str,
    position: usize,
}

/// Lexical token with its position in the document, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The token as written.
    pub text: &'a str,
    /// Position of its first byte.
    pub start: usize,
}

impl<'a> Tokens<'a> {
    /// Creates an iterator over the tokens of a document.
    pub fn new(document: &'a str) -> Self {
        Self { rest: document, position: 0 }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        self.position += taken.len();
        taken
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let first = self.rest.chars().next()?;
            let ignored = match first {
                ' ' | '\t' | '\n' | '\r' | ',' | '\u{feff}' => first.len_utf8(),
                '#' => self.rest.find(['\n', '\r']).unwrap_or(self.rest.len()),
                _ => 0,
            };
            if ignored == 0 {
                let start = self.position;
                let text = self.take(token_length(self.rest, first));
                return Some(Token { text, start });
            }
            self.take(ignored);
        }
    }
}

/// Returns the length of the token at the start of a text, in bytes.
fn token_length(text: &str, first: char) -> usize {
    let while_matching = |matching: fn(char) -> bool| {
        let rest = text.get(first.len_utf8()..).unwrap_or_default();
        text.len() - rest.trim_start_matches(matching).len()
    };
    match first {
        '"' => string_length(text.as_bytes()),
        '_' | 'a'..='z' | 'A'..='Z' => while_matching(|char| char == '_' || char.is_ascii_alphanumeric()),
        '-' | '0'..='9' => {
            while_matching(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '+' | '-'))
        }
        '.' => while_matching(|char| char == '.'),
        _ => first.len_utf8(),
    }
}

/// Returns the length of a string or block string with its quotes. An unterminated one ends with its line or
/// the document.
fn string_length(bytes: &[u8]) -> usize {
    if let Some(block) = bytes.strip_prefix(b"\"\"\"") {
        let mut at = 0;
        while let Some(here) = block.get(at..).filter(|here| !here.is_empty()) {
            if here.starts_with(b"\\\"\"\"") {
                at += 4;
            } else if here.starts_with(b"\"\"\"") {
                return at + 6;
            } else {
                at += 1;
            }
        }
        return bytes.len();
    }
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'\n' | b'\r' => return at,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// Replaces what has no meaning in a document by spaces: comments, commas, byte order marks and the
/// descriptions of operations, fragments and variables (September 2025 edition). Every other token keeps its
/// line and column.
///
/// The parser of `apollo-compiler` rejects descriptions, and a comment between `...` and what follows.
pub fn blank_ignored(document: &str) -> String {
    let mut blanked = String::with_capacity(document.len());
    let mut position = 0;
    let mut depth = 0_usize;
    // True between the parentheses of variable definitions.
    let mut in_definitions = false;
    let mut before = "";
    let mut tokens = Tokens::new(document).peekable();
    while let Some(token) = tokens.next() {
        push_ignored(&mut blanked, document.get(position..token.start).unwrap_or_default());
        position = token.start + token.text.len();
        let after = tokens.peek().map_or("", |token| token.text);
        let describes = match depth {
            0 => matches!(after, "query" | "mutation" | "subscription" | "fragment"),
            // The string after `=` is a default value.
            _ => depth == 1 && in_definitions && after == "$" && before != "=",
        };
        if token.text.starts_with('"') && describes {
            push_blank(&mut blanked, token.text);
            continue;
        }
        match token.text {
            "(" | "[" | "{" => {
                in_definitions = (in_definitions && depth > 0) || (depth == 0 && token.text == "(");
                depth += 1;
            }
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = token.text;
        blanked.push_str(token.text);
    }
    blanked
}

/// Finds the name of an argument or an input field that no colon follows. The parser of `apollo-compiler`
/// leaves such a name out without an error.
pub fn name_without_colon(document: &str) -> Option<Token<'_>> {
    // True for brackets that enclose arguments, variable definitions or input fields.
    let mut enclosing: Vec<bool> = Vec::new();
    let mut before = "";
    let mut tokens = Tokens::new(document).peekable();
    while let Some(token) = tokens.next() {
        let is_name = token.text.starts_with(|char: char| char == '_' || char.is_ascii_alphabetic());
        let is_key = is_name && !matches!(before, ":" | "=" | "$" | "@");
        let is_followed = tokens.peek().is_some_and(|after| after.text == ":");
        if is_key && enclosing.last() == Some(&true) && !is_followed {
            return Some(token);
        }
        match token.text {
            "(" => enclosing.push(true),
            // A brace among arguments opens an input object, another one a selection set.
            "{" => enclosing.push(enclosing.contains(&true)),
            "[" => enclosing.push(false),
            ")" | "]" | "}" => {
                enclosing.pop();
            }
            _ => {}
        }
        before = token.text;
    }
    None
}

/// Appends ignored characters: white space as it is, other characters as spaces, comments not at all.
fn push_ignored(blanked: &mut String, ignored: &str) {
    let mut is_comment = false;
    for char in ignored.chars() {
        match char {
            '\n' | '\r' => is_comment = false,
            '#' => is_comment = true,
            _ => {}
        }
        if !is_comment {
            blanked.push(if matches!(char, '\n' | '\r' | '\t') { char } else { ' ' });
        }
    }
}

/// Appends a space for each character, and line ends as they are.
fn push_blank(blanked: &mut String, text: &str) {
    blanked.extend(text.chars().map(|char| if matches!(char, '\n' | '\r') { char } else { ' ' }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(document: &str) -> Vec<&str> {
        Tokens::new(document).map(|token| token.text).collect()
    }

    #[test]
    fn a_document_is_split_by_the_rules_of_the_specification() {
        for (document, tokens) in [
            ("{ a }", &["{", "a", "}"][..]),
            ("{,a\t\u{feff}, b # c d e\n}", &["{", "a", "b", "}"]),
            (
                "($x: [Int!]! = [-1.5e+3, 2])",
                &["(", "$", "x", ":", "[", "Int", "!", "]", "!", "=", "[", "-1.5e+3", "2", "]", ")"],
            ),
            ("@a { ...F }", &["@", "a", "{", "...", "F", "}"]),
            (
                r#"b: "c d \" e", f: """g " h \""" i""""#,
                &["b", ":", r#""c d \" e""#, "f", ":", r#""""g " h \""" i""""#],
            ),
            ("a # \" not a string\n b", &["a", "b"]),
            ("\u{ff02}é", &["\u{ff02}", "é"]),
            ("\"open\nb", &["\"open", "b"]),
            ("\"\"\"open\nb", &["\"\"\"open\nb"]),
            ("\"\\", &["\"\\"]),
            ("", &[]),
        ] {
            assert_eq!(texts(document), tokens, "{document}");
        }
        let positions: Vec<_> = Tokens::new(" é,b").map(|token| token.start).collect();
        assert_eq!(positions, [1, 4]);
    }

    #[test]
    fn ignored_tokens_become_spaces() {
        for (document, blanked) in [
            ("{ a, b }", "{ a  b }"),
            ("\u{feff}{ a # comment, \"x\"\r\n ... # on\n on A { b } }", " { a \r\n ... \n on A { b } }"),
            ("{ a(b: \"x, # y\") }", "{ a(b: \"x, # y\") }"),
            ("\"what\" query { a }", "       query { a }"),
            ("\"\"\"two\nlines é\"\"\"fragment F on A { b }", "      \n          fragment F on A { b }"),
            (
                "query Q(\"first\" $a: Int = 1 \"second\" $b: Int) { c }",
                "query Q(        $a: Int = 1          $b: Int) { c }",
            ),
            ("query Q($a: String = \"x\" $b: Int) { c }", "query Q($a: String = \"x\" $b: Int) { c }"),
        ] {
            assert_eq!(blank_ignored(document), blanked, "{document}");
        }
    }

    #[test]
    fn a_name_without_a_colon_is_found_among_arguments_and_input_fields() {
        let found = |document| name_without_colon(document).map(|token| token.text);
        for (document, name) in [
            ("{ a(b: 1 c) }", "c"),
            ("{ a(b 1) }", "b"),
            ("{ a(b: \"x\"y) { d } }", "y"),
            ("{ a(b: { c: 1 d }) }", "d"),
            ("{ a(b: [{ c 1 }]) }", "c"),
            ("{ a @skip(if true) }", "if"),
            ("query Q($a: Int b) { c }", "b"),
        ] {
            assert_eq!(found(document), Some(name), "{document}");
        }
        for document in [
            "{ a(b: [C, D], e: { f: G, h: [I] }) @j(k: true) { l m(n: $o) ... on P { q } } }",
            "query Q($a: [Int!]! = [1] @b(c: D), $e: F = { g: H }) { i }",
            "fragment F on T { a }",
        ] {
            assert_eq!(found(document), None, "{document}");
        }
    }

    #[test]
    fn strings_that_describe_nothing_stay() {
        for document in
            ["\"x\" { a }", "\"x\"", "\"x\" type A { b: Int }", "{ a(b: \"x\" c: $d) }", "{ \"x\" query }"]
        {
            assert_eq!(blank_ignored(document), document);
        }
    }
}
