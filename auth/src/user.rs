//! People as others see them: login and name, looked up by ids or by the beginning of either.

use proto::UserId;

use crate::{App, Error, store};

const LOGIN_MIN: usize = 3;
const LOGIN_MAX: usize = 32;
const NAME_MAX: usize = 64;
const PREFIX_MIN: usize = 2;
const PREFIX_MAX: usize = 32;
/// The longest page.
const PAGE_MAX: i32 = 100;
/// The most people looked up in one call.
const IDS_MAX: usize = 10_000;

/// What a person signs in with, unique: 3 to 32 characters of a–z, 0–9, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login(String);

impl Login {
    /// Reads a login.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        let fits = (LOGIN_MIN..=LOGIN_MAX).contains(&text.len()) && text.bytes().all(allowed);
        fits.then_some(Self(text))
            .ok_or(Error::Invalid("a login has 3 to 32 characters: a to z, 0 to 9, '_', '.', '-'"))
    }

    /// The login.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a person is called: 1 to 64 characters without blanks around them, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// Reads a name; blanks around it go.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let name = text.trim();
        // The last character of Unicode is no letter: it ends the range of a prefix.
        let fits = !name.is_empty()
            && name.chars().nth(NAME_MAX).is_none()
            && !text.chars().any(|char| char.is_control() || char == char::MAX);
        fits.then(|| Self(name.to_owned()))
            .ok_or(Error::Invalid("a name has 1 to 64 characters, none of them control characters"))
    }

    /// The name of a person who gives none.
    pub(crate) fn of(login: &Login) -> Self {
        Self(login.0.clone())
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What a search compares.
    pub(crate) fn lower(&self) -> String {
        lower(&self.0)
    }
}

/// How a login or a name begins, in any case of letters: 2 to 32 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix(String);

impl Prefix {
    /// Reads a prefix.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fits = text.chars().nth(PREFIX_MIN - 1).is_some()
            && text.chars().nth(PREFIX_MAX).is_none()
            && !text.chars().any(char::is_control);
        fits.then(|| Self(lower(text)))
            .ok_or(Error::Invalid("a search has 2 to 32 characters, none of them control characters"))
    }

    /// The first text of the range that begins so.
    pub(crate) fn low(&self) -> &str {
        &self.0
    }

    /// The end of the range, exclusive: no name holds the last character of Unicode.
    pub(crate) fn high(&self) -> String {
        format!("{}{}", self.0, char::MAX)
    }
}

/// Letter by letter: `str::to_lowercase` would spell a sigma at the end of a prefix as the end of a word.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// A page of a search.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    prefix: Prefix,
    first: i64,
    after: Option<Login>,
}

impl Search {
    /// Reads a search: 1 to 100 people after a login.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub(crate) fn parse(prefix: &str, first: i32, after: Option<String>) -> Result<Self, Error> {
        if !(1..=PAGE_MAX).contains(&first) {
            return Err(Error::Invalid("a page has 1 to 100 people"));
        }
        let after = after.map(Login::parse).transpose();
        let after = after.map_err(|_| Error::Invalid("a page goes on after a login"))?;
        Ok(Self { prefix: Prefix::parse(prefix)?, first: first.into(), after })
    }
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub id: UserId,
    pub login: String,
    pub name: String,
    /// By the database's clock.
    pub created_at_us: i64,
}

/// The people of these ids, at most 10,000; absent ones are left out.
#[tracing::instrument(name = "auth.user.list", skip_all)]
pub(crate) async fn list(app: &App, ids: &[UserId]) -> Result<Vec<User>, Error> {
    if ids.len() > IDS_MAX {
        return Err(Error::Invalid("at most 10000 people are looked up at once"));
    }
    Ok(store::user::list(&app.db, ids).await?)
}

/// The people whose login or name begins so, by login, and whether there are more.
#[tracing::instrument(name = "auth.user.search", skip_all)]
pub(crate) async fn search(app: &App, search: &Search) -> Result<(Vec<User>, bool), Error> {
    let after = search.after.as_ref().map_or("", Login::as_str);
    let mut users = store::user::search(&app.db, &search.prefix, after, search.first + 1).await?;
    let length = usize::try_from(search.first).unwrap_or(usize::MAX);
    let has_next = users.len() > length;
    users.truncate(length);
    Ok((users, has_next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_has_3_to_32_of_few_characters() {
        for good in ["ann", "a.b-c_9", &"x".repeat(32)] {
            assert_eq!(Login::parse(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["", "ab", &"x".repeat(33), "Ann", "änn", "a b", "ann\0", "ann\n", "ann!", "а́nn"] {
            assert!(matches!(Login::parse(bad.to_owned()), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_name_has_1_to_64_characters_and_blanks_around_it_go() {
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
    fn a_prefix_has_2_to_32_characters_in_any_case_of_letters() {
        let prefix = Prefix::parse("ΑΣ").unwrap();
        assert!(
            Name::parse("Ασα").unwrap().lower().starts_with(prefix.low()),
            "a word's end is no other letter here"
        );
        assert!(Prefix::parse(&"é".repeat(32)).is_ok());
        for bad in ["", "a", "é", "a\0", "an\n", &"é".repeat(33)] {
            assert!(matches!(Prefix::parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_is_a_range_of_all_that_begin_so_and_nothing_else() {
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
    fn a_page_has_1_to_100_people_after_a_login() {
        for first in [i32::MIN, -1, 0, 101, i32::MAX] {
            assert!(matches!(Search::parse("an", first, None), Err(Error::Invalid(_))), "{first}");
        }
        assert!(Search::parse("an", 1, Some("ann".to_owned())).is_ok());
        assert!(Search::parse("an", 100, None).is_ok());
        assert!(matches!(Search::parse("an", 1, Some("no login".to_owned())), Err(Error::Invalid(_))));
    }
}
