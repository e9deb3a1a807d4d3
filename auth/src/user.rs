//! Users as other users see them: login and display name. Looked up by id or searched by a prefix of
//! either.

use proto::UserId;
use visible_text::is_label;

use crate::{App, Error, store};

const LOGIN_MIN: usize = 3;
const LOGIN_MAX: usize = 32;
const NAME_MAX: usize = 64;
const PREFIX_MIN: usize = 2;
const PREFIX_MAX: usize = 32;
/// Users per page of a search.
const PAGE_MAX: i32 = 100;
/// Ids per lookup.
const IDS_MAX: usize = 10_000;

/// Unique login name: 3 to 32 characters of a–z, 0–9, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login(String);

impl Login {
    /// Parses a login in upper or lower case, without surrounding whitespace. Only ASCII letters are
    /// lower-cased: the Kelvin sign is not a k.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length or another character.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim().to_ascii_lowercase();
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        let is_valid = (LOGIN_MIN..=LOGIN_MAX).contains(&text.len()) && text.bytes().all(allowed);
        is_valid
            .then_some(Self(text))
            .ok_or(Error::Invalid("a login has 3 to 32 characters: a to z, 0 to 9, '_', '.', '-'"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Display name: 1 to 64 characters without surrounding whitespace, at least one of them visible. No
/// control characters, which include line breaks, and no bidirectional embeddings, overrides or isolates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// Parses a name, without surrounding whitespace.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length, for a name without a visible character, and for a control
    /// character, also a bidirectional one.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let name = text.trim();
        // The last code point of Unicode is excluded: it marks the end of a prefix's range, see
        // `Prefix::high`.
        let is_valid =
            is_label(name, NAME_MAX) && !text.chars().any(|char| char.is_control() || char == char::MAX);
        is_valid.then(|| Self(name.to_owned())).ok_or(Error::Invalid(
            "a name has 1 to 64 characters, one of them visible, and no control characters",
        ))
    }

    /// Returns the default name of a user who gives none: the login.
    pub(crate) fn from_login(login: &Login) -> Self {
        Self(login.0.clone())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the lower-case form that searches compare.
    pub(crate) fn lower(&self) -> String {
        lower(&self.0)
    }
}

/// Case-insensitive prefix of a login or name: 2 to 32 characters, or one Chinese, Japanese or Korean
/// character, because names and words of one character are common in these scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix(String);

impl Prefix {
    /// Parses a prefix.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a wrong length or a control character.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let is_long_enough = text.chars().nth(PREFIX_MIN - 1).is_some() || text.chars().all(is_cjk);
        let is_valid = !text.is_empty()
            && is_long_enough
            && text.chars().nth(PREFIX_MAX).is_none()
            && !text.chars().any(char::is_control);
        is_valid.then(|| Self(lower(text))).ok_or(Error::Invalid(
            "a search has 2 to 32 characters, or one Chinese, Japanese or Korean; no control characters",
        ))
    }

    /// Returns the inclusive start of the range of texts with this prefix.
    pub(crate) fn low(&self) -> &str {
        &self.0
    }

    /// Returns the exclusive end of that range. No name contains the last code point of Unicode.
    pub(crate) fn high(&self) -> String {
        format!("{}{}", self.0, char::MAX)
    }
}

/// Lower-cases each character independently. `str::to_lowercase` writes a sigma differently at the end
/// of a word, so a prefix that ends in one would not match the name it was taken from.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Returns true for a letter of the scripts Han, Hiragana, Katakana and Hangul.
fn is_cjk(char: char) -> bool {
    matches!(char,
        '\u{1100}'..='\u{115e}' | '\u{1161}'..='\u{11ff}' // Hangul Jamo, without the fillers
        | '\u{2e80}'..='\u{2fd5}' // radicals
        | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3038}'..='\u{303b}' // Han marks, numerals
        | '\u{3041}'..='\u{3096}' | '\u{309d}'..='\u{309f}' // Hiragana
        | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' // Katakana
        | '\u{3131}'..='\u{3163}' | '\u{3165}'..='\u{318e}' // Hangul Compatibility Jamo
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' // Han
        | '\u{a960}'..='\u{a97c}' | '\u{ac00}'..='\u{d7a3}' | '\u{d7b0}'..='\u{d7fb}' // Hangul
        | '\u{ff66}'..='\u{ff9f}' | '\u{ffa1}'..='\u{ffdc}' // half-width Katakana and Hangul
        | '\u{1aff0}'..='\u{1b16f}' // historical and small Kana
        | '\u{20000}'..='\u{2fffd}' | '\u{30000}'..='\u{3fffd}' // Han, supplementary planes
    )
}

/// Request for a page of search results.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    prefix: Prefix,
    first: i64,
    after: Option<Login>,
}

impl Search {
    /// Parses a search for the first 1 to 100 users, after a login.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a malformed prefix or login, or a page size outside its limits.
    pub(crate) fn parse(prefix: &str, first: i32, after: Option<String>) -> Result<Self, Error> {
        if !(1..=PAGE_MAX).contains(&first) {
            return Err(Error::Invalid("a page has 1 to 100 users"));
        }
        let after = after.as_deref().map(Login::parse).transpose();
        let after = after.map_err(|_| Error::Invalid("a page starts after a login"))?;
        Ok(Self { prefix: Prefix::parse(prefix)?, first: first.into(), after })
    }
}

/// Public profile of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub id: UserId,
    pub login: String,
    pub name: String,
    /// Creation time in microseconds since the Unix epoch, from the database's clock.
    pub created_at_us: i64,
}

/// Returns the users with these ids, in no order. Unknown ids are omitted.
///
/// # Errors
/// [`Error::Invalid`] for more than 10,000 ids.
#[tracing::instrument(name = "auth.user.list", skip_all)]
pub(crate) async fn list(app: &App, ids: &[UserId]) -> Result<Vec<User>, Error> {
    if ids.len() > IDS_MAX {
        return Err(Error::Invalid("at most 10000 users can be looked up in one call"));
    }
    Ok(store::user::list(&app.db, ids).await?)
}

/// Page of search results.
#[derive(Debug)]
pub(crate) struct Page {
    pub users: Vec<User>,
    pub has_next: bool,
}

/// Returns the users whose login or name starts with the prefix, ordered by login.
#[tracing::instrument(name = "auth.user.search", skip_all)]
pub(crate) async fn search(app: &App, search: &Search) -> Result<Page, Error> {
    let after = search.after.as_ref().map_or("", Login::as_str);
    // One row more than the page, to learn if there is a next one.
    let mut users = store::user::search(&app.db, &search.prefix, after, search.first + 1).await?;
    let length = usize::try_from(search.first).unwrap_or(usize::MAX);
    let has_next = users.len() > length;
    users.truncate(length);
    Ok(Page { users, has_next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_has_3_to_32_allowed_characters() {
        for good in ["ann", "a.b-c_9", &"x".repeat(32)] {
            assert_eq!(Login::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "ab", &"x".repeat(33), "änn", "a b", "ann\0", "ann!", "а́nn", " ab ", "\u{212a}ann"]
        {
            assert!(matches!(Login::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_login_ignores_case_and_surrounding_whitespace() {
        let padded = format!(" {}\n", "X".repeat(32));
        for (text, login) in [
            ("Ann ", "ann"),
            ("ANN", "ann"),
            ("\u{a0}\tann\u{3000}", "ann"),
            (padded.as_str(), &"x".repeat(32)),
        ] {
            assert_eq!(Login::parse(text).unwrap().as_str(), login, "{text:?}");
        }
    }

    #[test]
    fn a_name_has_1_to_64_characters_without_surrounding_whitespace() {
        for (text, name) in [("Ann", "Ann"), ("  Ann Ö. \u{3000}", "Ann Ö."), ("李", "李")] {
            assert_eq!(Name::parse(text).unwrap().as_str(), name);
        }
        assert!(Name::parse(&"ß".repeat(64)).is_ok());
        for bad in ["", " ", "\u{3000}", "a\0b", "a\nb", "\tann", "a\u{7f}", "a\u{10ffff}", &"ß".repeat(65)]
        {
            assert!(matches!(Name::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_name_has_a_visible_character_and_no_line_break_or_bidirectional_control() {
        for bad in [
            "\u{200b}",
            "\u{3164}",
            " \u{200d}\u{fe0f} ",
            "a\r\nb",
            "a\rb",
            "ann\u{202e}",
            "\u{2066}ann\u{2069}",
        ] {
            assert!(matches!(Name::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        for good in ["❤\u{fe0f}", "👩\u{200d}👧", "\u{200f}אב", "می\u{200c}خواهم"] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_prefix_of_one_character_is_chinese_japanese_or_korean() {
        for good in ["李", "𠮷", "々", "あ", "ア", "ー", "ｱ", "한", "ㄱ", "\u{1112}"] {
            assert_eq!(Prefix::parse(good).unwrap().low(), good);
        }
        for bad in ["a", "é", "ж", "א", "ก", "🐎", "\u{3000}", "、", "・", "\u{3164}", "\u{115f}", "\u{ffa0}"]
        {
            assert!(matches!(Prefix::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_has_2_to_32_characters_and_ignores_case() {
        let prefix = Prefix::parse("ΑΣ").unwrap();
        assert!(
            Name::parse("Ασα").unwrap().lower().starts_with(prefix.low()),
            "a final sigma is the same letter"
        );
        assert!(Prefix::parse(&"é".repeat(32)).is_ok());
        for bad in ["", "a", "é", "a\0", "an\n", &"é".repeat(33)] {
            assert!(matches!(Prefix::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_range_of_a_prefix_holds_exactly_the_texts_that_start_with_it() {
        let prefix = Prefix::parse("AN").unwrap();
        let inside = |text: &str| text >= prefix.low() && text < prefix.high().as_str();
        for yes in ["an", "ann", "an\u{10fffe}", "an🐎", "anz"] {
            assert!(inside(yes), "{yes}");
        }
        for no in ["am", "ao", "a", "b", "", "a\u{10fffe}"] {
            assert!(!inside(no), "{no}");
        }
    }

    #[test]
    fn a_page_has_1_to_100_users_after_a_login() {
        for first in [i32::MIN, -1, 0, 101, i32::MAX] {
            assert!(matches!(Search::parse("an", first, None), Err(Error::Invalid(_))), "{first}");
        }
        assert!(Search::parse("an", 1, Some("ann".to_owned())).is_ok());
        assert!(Search::parse("an", 100, None).is_ok());
        assert!(matches!(Search::parse("an", 1, Some("no login".to_owned())), Err(Error::Invalid(_))));
    }
}
