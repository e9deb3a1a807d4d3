//! Addresses of the gateway under test, and of a second gateway where the test runs two.

/// Addresses of a gateway and of the one for a user's second client. Both are the same where there is
/// only one gateway.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://host:port`
    pub url: String,
    /// `http://host:port` of the second gateway.
    pub second_url: String,
    /// Appended to every login, so that tests on one stack do not share users.
    pub login_suffix: String,
}

impl Endpoint {
    /// Returns the same endpoint with both gateways swapped.
    pub fn second_gateway(&self) -> Self {
        Self {
            url: self.second_url.clone(),
            second_url: self.url.clone(),
            login_suffix: self.login_suffix.clone(),
        }
    }
}
