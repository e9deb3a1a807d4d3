//! Where a story takes place: a gateway, and another one where there are two.

/// A gateway, and one for a person's other device: the same where there is but one.
#[derive(Debug, Clone)]
pub struct Place {
    /// `http://127.0.0.1:port`
    pub url: String,
    /// The other gateway's.
    pub other: String,
    /// Ends every login: stories on one stack do not meet.
    pub suffix: String,
}

impl Place {
    /// The same place, seen from the other gateway.
    pub fn elsewhere(&self) -> Self {
        Self { url: self.other.clone(), other: self.url.clone(), suffix: self.suffix.clone() }
    }
}
