//! Pages of lists: the connection types of the Relay cursor connections specification, and page sizes
//! and costs.

use std::sync::Arc;

use async_graphql::SimpleObject;

use crate::error::Error;

use super::{Dialog, Message, User};

/// The maximum number of items of a page.
pub const PAGE_MAX: i32 = 100;
/// The number of items of a page if the client gives none.
pub const PAGE_DEFAULT: i32 = 20;

/// The position of a page in its list.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
#[graphql(shareable)] // Relay defines this type, so other subgraphs of a federation define it too.
pub struct PageInfo {
    /// True if there are items after this page.
    pub has_next_page: bool,
    /// True if there are items before this page.
    pub has_previous_page: bool,
    /// The cursor of the first item, for `before`. Null if the page is empty.
    pub start_cursor: Option<String>,
    /// The cursor of the last item, for `after`. Null if the page is empty.
    pub end_cursor: Option<String>,
}

macro_rules! connection {
    ($($(#[$doc:meta])* $connection:ident of $edge:ident of $node:ident)*) => {$(
        /// An item of a page and its cursor.
        #[derive(SimpleObject, Debug)]
        pub struct $edge {
            /// The position of the item, for `after` and `before` of the same list.
            cursor: String,
            /// The item.
            node: Arc<$node>,
        }

        $(#[$doc])*
        #[derive(SimpleObject, Debug)]
        pub struct $connection {
            /// The items of the page with their cursors.
            edges: Vec<$edge>,
            /// The items of the page without cursors.
            nodes: Vec<Arc<$node>>,
            /// The position of this page in its list.
            #[graphql(complexity = 0)]
            page_info: PageInfo,
        }

        impl $connection {
            /// Creates a page; `cursor` returns the cursor of an item.
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
    /// A page of users.
    UserConnection of UserEdge of User
    /// A page of dialogs.
    DialogConnection of DialogEdge of Dialog
    /// A page of a dialog's history.
    MessageConnection of MessageEdge of Message
}

/// Returns the page size of the argument `first` or `last`.
///
/// # Errors
/// BAD_USER_INPUT if the size is not between 1 and [`PAGE_MAX`].
pub fn size(argument: &str, requested: Option<i32>, default: i32) -> Result<i32, Error> {
    match requested.unwrap_or(default) {
        size @ 1..=PAGE_MAX => Ok(size),
        _ => Err(Error::input(format!("`{argument}` must be 1 to {PAGE_MAX}"))),
    }
}

/// Returns the complexity of a page: its size times the complexity of one item, plus 1. A size that is
/// out of range counts as the nearest valid one, because complexity is calculated before [`size`]
/// rejects it.
pub fn cost(requested: Option<i32>, default: i32, item_cost: usize) -> usize {
    let page = requested.unwrap_or(default).clamp(1, PAGE_MAX);
    list_cost(usize::try_from(page).unwrap_or(1), item_cost)
}

/// Returns the complexity of a list of at most `items_max` items.
pub fn list_cost(items_max: usize, item_cost: usize) -> usize {
    items_max.saturating_mul(item_cost).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_is_1_to_100() {
        assert_eq!(size("first", None, 20), Ok(20));
        assert_eq!(size("first", Some(1), 20), Ok(1));
        assert_eq!(size("first", Some(100), 20), Ok(100));
        for requested in [0, 101, -1, i32::MIN, i32::MAX] {
            let error = size("last", Some(requested), 20).expect_err("the size is out of range");
            assert_eq!(error.to_string(), "`last` must be 1 to 100");
        }
    }

    #[test]
    fn a_list_costs_its_page_size_times_its_item() {
        assert_eq!(cost(Some(50), 20, 7), 351);
        assert_eq!(cost(None, 20, 7), 141);
        assert_eq!(cost(Some(i32::MAX), 20, 7), 701, "a size out of range is rejected later");
        assert_eq!(cost(Some(-5), 20, 7), 8);
        assert_eq!(cost(Some(100), 20, usize::MAX), usize::MAX);
        assert_eq!(list_cost(1_000, 2), 2_001);
    }
}
