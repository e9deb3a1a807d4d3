//! Pagination parameters: page size, cursor of the dialog list, and page of a history in either
//! direction.

use proto::{DialogId, dialog as wire};
use uuid::Uuid;

use crate::{Error, participants::PARTICIPANTS_MAX};

/// Maximum number of entries per page.
const SIZE_MAX: i32 = 100;

/// Page size: 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageSize(i64);

impl PageSize {
    /// Parses a page size.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not 1 to 100.
    pub(crate) fn parse(size: i32) -> Result<Self, Error> {
        (1..=SIZE_MAX)
            .contains(&size)
            .then_some(Self(size.into()))
            .ok_or(Error::Invalid("a page has 1 to 100 entries"))
    }

    pub(crate) fn get(self) -> usize {
        usize::try_from(self.0).expect("a page size is 1 to 100")
    }

    /// Returns the number of rows to load: one more than the page, to learn if there is a next page.
    pub(crate) fn plus_one(self) -> i64 {
        self.0 + 1
    }
}

/// Number of participants that a list names of each dialog: the first ones by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParticipantsFirst(i64);

impl ParticipantsFirst {
    /// Parses the number. All participants if it is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not 0 to 1,000.
    pub(crate) fn parse(first: Option<i32>) -> Result<Self, Error> {
        let first = first.map_or(Ok(PARTICIPANTS_MAX), usize::try_from);
        let first = first.ok().filter(|first| *first <= PARTICIPANTS_MAX);
        let first = first.and_then(|first| i64::try_from(first).ok());
        first.map(Self).ok_or(Error::Invalid("a list names 0 to 1,000 participants of a dialog"))
    }

    pub(crate) fn get(self) -> i64 {
        self.0
    }
}

/// Cursor of the dialog list, which is ordered by activity: the last dialog of the previous page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Last activity in microseconds since the Unix epoch.
    pub last_activity_us: i64,
    pub dialog_id: DialogId,
}

impl Cursor {
    /// Precedes every dialog.
    pub(crate) const START: Self = Self { last_activity_us: i64::MAX, dialog_id: DialogId::new(Uuid::max()) };

    /// Parses a cursor.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a negative time or a malformed id.
    pub(crate) fn parse(cursor: &wire::ListCursor) -> Result<Self, Error> {
        if cursor.last_activity_us < 0 {
            return Err(invalid_cursor());
        }
        Ok(Self { last_activity_us: cursor.last_activity_us, dialog_id: DialogId::parse(&cursor.dialog_id)? })
    }
}

/// Request for a page of a dialog's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub dialog_id: DialogId,
    pub window: Window,
}

/// Size and direction of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// The oldest messages after a seq, exclusive. 0 starts at the first message.
    First { size: PageSize, after: i64 },
    /// The newest messages before a seq, exclusive. `i64::MAX` starts at the last message.
    Last { size: PageSize, before: i64 },
}

impl Page {
    /// Parses a page.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless exactly one of `first` (with `after_seq`) and `last` (with
    /// `before_seq`) is given, with a valid size and cursor.
    pub(crate) fn parse(page: &wire::HistoryPage) -> Result<Self, Error> {
        let window = match (page.first, page.after_seq, page.last, page.before_seq) {
            (Some(first), after, None, None) => {
                Window::First { size: PageSize::parse(first)?, after: parse_seq(after.unwrap_or(0))? }
            }
            (None, None, Some(last), before) => {
                Window::Last { size: PageSize::parse(last)?, before: parse_seq(before.unwrap_or(i64::MAX))? }
            }
            _ => return Err(Error::Invalid("a page has either first (with after) or last (with before)")),
        };
        Ok(Self { dialog_id: DialogId::parse(&page.dialog_id)?, window })
    }
}

fn parse_seq(seq: i64) -> Result<i64, Error> {
    if seq < 0 { Err(invalid_cursor()) } else { Ok(seq) }
}

fn invalid_cursor() -> Error {
    Error::Invalid("the cursor is not valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_1_to_100_entries() {
        for size in [1, 50, 100] {
            assert_eq!(PageSize::parse(size).unwrap().plus_one(), i64::from(size) + 1);
        }
        for size in [i32::MIN, -1, 0, 101, i32::MAX] {
            assert!(matches!(PageSize::parse(size), Err(Error::Invalid(_))), "{size}");
        }
    }

    #[test]
    fn a_list_names_0_to_1_000_participants_or_all() {
        for (first, expected) in [(None, 1_000), (Some(0), 0), (Some(21), 21), (Some(1_000), 1_000)] {
            assert_eq!(ParticipantsFirst::parse(first).unwrap().get(), expected);
        }
        for first in [i32::MIN, -1, 1_001, i32::MAX] {
            assert!(matches!(ParticipantsFirst::parse(Some(first)), Err(Error::Invalid(_))), "{first}");
        }
    }

    #[test]
    fn a_page_has_exactly_one_direction() {
        let id = DialogId::now();
        let page = |first, after_seq, last, before_seq| {
            Page::parse(&wire::HistoryPage { dialog_id: id.bytes(), first, after_seq, last, before_seq })
        };
        let size = PageSize::parse(7).unwrap();
        let expected = |window| Page { dialog_id: id, window };
        assert_eq!(page(Some(7), None, None, None).unwrap(), expected(Window::First { size, after: 0 }));
        assert_eq!(page(Some(7), Some(3), None, None).unwrap(), expected(Window::First { size, after: 3 }));
        assert_eq!(
            page(None, None, Some(7), None).unwrap(),
            expected(Window::Last { size, before: i64::MAX })
        );
        assert_eq!(page(None, None, Some(7), Some(3)).unwrap(), expected(Window::Last { size, before: 3 }));
        for (first, after, last, before) in [
            (None, None, None, None),
            (Some(1), None, Some(1), None),
            (Some(1), None, None, Some(1)),
            (None, Some(1), Some(1), None),
            (None, Some(1), None, None),
            (Some(0), None, None, None),
            (None, None, Some(101), None),
            (Some(1), Some(-1), None, None),
            (None, None, Some(1), Some(-1)),
        ] {
            assert!(matches!(page(first, after, last, before), Err(Error::Invalid(_))));
        }
    }

    #[test]
    fn an_invalid_cursor_is_refused() {
        let cursor =
            |last_activity_us, dialog_id| Cursor::parse(&wire::ListCursor { last_activity_us, dialog_id });
        let id = DialogId::now();
        assert_eq!(cursor(5, id.bytes()).unwrap(), Cursor { last_activity_us: 5, dialog_id: id });
        assert!(matches!(cursor(-1, id.bytes()), Err(Error::Invalid(_))));
        assert!(matches!(cursor(5, vec![0; 17]), Err(Error::Invalid(_))));
    }
}
