//! Pages within their bounds: of a list of dialogs, and of a dialog's history both ways.

use proto::{DialogId, dialog as wire};
use uuid::Uuid;

use crate::Error;

/// The largest page.
const SIZE_MAX: i32 = 100;

/// How many: 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(i64);

impl PageSize {
    /// Reads a size.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds.
    pub fn parse(size: i32) -> Result<Self, Error> {
        (1..=SIZE_MAX)
            .contains(&size)
            .then_some(Self(size.into()))
            .ok_or(Error::Invalid("a page has 1 to 100 entries"))
    }

    /// The size.
    pub fn get(self) -> usize {
        usize::try_from(self.0).expect("a page's size is 1 to 100")
    }

    /// One more than the page holds, which tells whether something follows.
    pub fn and_one(self) -> i64 {
        self.0 + 1
    }
}

/// A place in a list of dialogs by activity: what follows has been active less recently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The last activity of the dialog before, in microseconds since the epoch.
    pub last_activity_us: i64,
    /// The dialog before.
    pub dialog_id: DialogId,
}

impl Cursor {
    /// Before everything.
    pub const START: Self = Self { last_activity_us: i64::MAX, dialog_id: DialogId::new(Uuid::max()) };

    /// Reads a cursor.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is from elsewhere.
    pub fn parse(cursor: &wire::ListCursor) -> Result<Self, Error> {
        if cursor.last_activity_us < 0 {
            return Err(strange_cursor());
        }
        Ok(Self { last_activity_us: cursor.last_activity_us, dialog_id: DialogId::parse(&cursor.dialog_id)? })
    }
}

/// A page of a dialog's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Whose history.
    pub dialog_id: DialogId,
    /// From which end.
    pub window: Window,
}

/// A part of a history; the bound is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The oldest with a greater seq; all where `after` is 0.
    First {
        /// How many.
        size: PageSize,
        /// The seq before them.
        after: i64,
    },
    /// The newest with a smaller seq; all where `before` is the greatest number.
    Last {
        /// How many.
        size: PageSize,
        /// The seq behind them.
        before: i64,
    },
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// [`Error::Invalid`] out of its bounds, and where it is not exactly one of first (with after) and last (with before).
    pub fn parse(page: &wire::HistoryPage) -> Result<Self, Error> {
        let window = match (page.first, page.after_seq, page.last, page.before_seq) {
            (Some(first), after, None, None) => {
                Window::First { size: PageSize::parse(first)?, after: bound(after.unwrap_or(0))? }
            }
            (None, None, Some(last), before) => {
                Window::Last { size: PageSize::parse(last)?, before: bound(before.unwrap_or(i64::MAX))? }
            }
            _ => return Err(Error::Invalid("a page has either first (with after) or last (with before)")),
        };
        Ok(Self { dialog_id: DialogId::parse(&page.dialog_id)?, window })
    }
}

fn bound(seq: i64) -> Result<i64, Error> {
    if seq < 0 { Err(strange_cursor()) } else { Ok(seq) }
}

fn strange_cursor() -> Error {
    Error::Invalid("this cursor is not from here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_1_to_100_entries() {
        for size in [1, 50, 100] {
            assert_eq!(PageSize::parse(size).unwrap().and_one(), i64::from(size) + 1);
        }
        for size in [i32::MIN, -1, 0, 101, i32::MAX] {
            assert!(matches!(PageSize::parse(size), Err(Error::Invalid(_))), "{size}");
        }
    }

    #[test]
    fn a_page_is_read_from_one_end() {
        let id = DialogId::now();
        let page = |first, after_seq, last, before_seq| {
            Page::parse(&wire::HistoryPage { dialog_id: id.bytes(), first, after_seq, last, before_seq })
        };
        let size = PageSize::parse(7).unwrap();
        let whole = |window| Page { dialog_id: id, window };
        assert_eq!(page(Some(7), None, None, None).unwrap(), whole(Window::First { size, after: 0 }));
        assert_eq!(page(Some(7), Some(3), None, None).unwrap(), whole(Window::First { size, after: 3 }));
        assert_eq!(page(None, None, Some(7), None).unwrap(), whole(Window::Last { size, before: i64::MAX }));
        assert_eq!(page(None, None, Some(7), Some(3)).unwrap(), whole(Window::Last { size, before: 3 }));
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
    fn a_cursor_from_elsewhere_is_refused() {
        let cursor =
            |last_activity_us, dialog_id| Cursor::parse(&wire::ListCursor { last_activity_us, dialog_id });
        let id = DialogId::now();
        assert_eq!(cursor(5, id.bytes()).unwrap(), Cursor { last_activity_us: 5, dialog_id: id });
        assert!(matches!(cursor(-1, id.bytes()), Err(Error::Invalid(_))));
        assert!(matches!(cursor(5, vec![0; 17]), Err(Error::Invalid(_))));
    }
}
