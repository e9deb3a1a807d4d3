//! Parser of the bearer credentials in an `Authorization` header (RFC 6750, section 2.1).

/// Returns the token of `Bearer <token>`, without surrounding white space. The scheme is
/// case-insensitive and ends at the first space.
///
/// Returns `None` for another scheme and for a value without a space. The token itself is not checked:
/// it may be empty or hold further spaces.
pub fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_case_insensitive_and_ends_at_the_first_space() {
        for header in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c  "] {
            assert_eq!(bearer_token(header), Some("a.b.c"), "{header:?}");
        }
        assert_eq!(bearer_token("Bearer "), Some(""));
        assert_eq!(bearer_token("Bearer a b"), Some("a b"));
        for header in ["", "Bearer", "a.b.c", "Basic a.b.c", "Bearer\ta.b.c", "Bearer:a.b.c", " Bearer a.b.c"]
        {
            assert_eq!(bearer_token(header), None, "{header:?}");
        }
    }
}
