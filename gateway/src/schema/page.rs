//! Pages of lists, as Relay's cursor connections have them.

use std::sync::Arc;

use async_graphql::SimpleObject;

use crate::error::Error;

use super::{Dialog, Message, User};

/// The most items of a page.
pub const PAGE_MAX: i32 = 100;
/// The items of a page where nobody says how many.
pub const PAGE_DEFAULT: i32 = 20;

/// Where a page lies in its list.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
#[graphql(shareable)] // Relay's word: other subgraphs have it too
pub struct PageInfo {
    /// Whether there is more after this page.
    pub has_next_page: bool,
    /// Whether there is more before this page.
    pub has_previous_page: bool,
    /// The cursor of the first item, to go on backwards with `before`. Null where the page is empty.
    pub start_cursor: Option<String>,
    /// The cursor of the last item, to go on with `after`. Null where the page is empty.
    pub end_cursor: Option<String>,
}

macro_rules! connection {
    ($($(#[$doc:meta])* $connection:ident of $edge:ident of $node:ident)*) => {$(
        /// An item of a page, with its cursor.
        #[derive(SimpleObject, Debug)]
        pub struct $edge {
            /// Where the item is in its list: for `after` and `before` of the same list.
            cursor: String,
            /// The item.
            node: Arc<$node>,
        }

        $(#[$doc])*
        #[derive(SimpleObject, Debug)]
        pub struct $connection {
            /// The items with their cursors.
            edges: Vec<$edge>,
            /// The items alone.
            nodes: Vec<Arc<$node>>,
            /// Where this page lies in its list.
            #[graphql(complexity = 0)]
            page_info: PageInfo,
        }

        impl $connection {
            /// A page of these items.
            pub fn new(
                nodes: Vec<Arc<$node>>,
                has_next_page: bool,
                has_previous_page: bool,
                cursor: impl Fn(&$node) -> String,
            ) -> Self {
                let edges: Vec<_> =
                    nodes.iter().map(|node| $edge { cursor: cursor(node), node: node.clone() }).collect();
                let start_cursor = edges.first().map(|edge| edge.cursor.clone());
                let end_cursor = edges.last().map(|edge| edge.cursor.clone());
                let page_info = PageInfo { has_next_page, has_previous_page, start_cursor, end_cursor };
                Self { edges, nodes, page_info }
            }
        }
    )*};
}

connection! {
    /// A page of people.
    UserConnection of UserEdge of User
    /// A page of dialogs.
    DialogConnection of DialogEdge of Dialog
    /// A page of a dialog's history.
    MessageConnection of MessageEdge of Message
}

/// The size of a page that goes forward.
///
/// # Errors
/// BAD_USER_INPUT where it is out of its bounds.
pub fn size(argument: &str, asked: Option<i32>, default: i32) -> Result<i32, Error> {
    match asked.unwrap_or(default) {
        size @ 1..=PAGE_MAX => Ok(size),
        _ => Err(Error::input(format!("`{argument}` must be 1 to {PAGE_MAX}"))),
    }
}

/// What a list costs: its page times what is in it, however the page is asked for.
pub fn cost(asked: Option<i32>, default: i32, item: usize) -> usize {
    let page = asked.unwrap_or(default).clamp(1, PAGE_MAX);
    list_cost(usize::try_from(page).unwrap_or(1), item)
}

/// What a list of at most so many items costs.
pub fn list_cost(items_max: usize, item: usize) -> usize {
    items_max.saturating_mul(item).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_1_to_100_items() {
        assert_eq!(size("first", None, 20), Ok(20));
        assert_eq!(size("first", Some(1), 20), Ok(1));
        assert_eq!(size("first", Some(100), 20), Ok(100));
        for asked in [0, 101, -1, i32::MIN, i32::MAX] {
            let error = size("last", Some(asked), 20).expect_err("refused");
            assert_eq!(error.to_string(), "`last` must be 1 to 100");
        }
    }

    #[test]
    fn a_list_costs_its_page_times_what_is_in_it() {
        assert_eq!(cost(Some(50), 20, 7), 351);
        assert_eq!(cost(None, 20, 7), 141);
        assert_eq!(cost(Some(i32::MAX), 20, 7), 701, "a page out of its bounds is refused later");
        assert_eq!(cost(Some(-5), 20, 7), 8);
        assert_eq!(cost(Some(100), 20, usize::MAX), usize::MAX);
        assert_eq!(list_cost(1_000, 2), 2_001);
    }
}
