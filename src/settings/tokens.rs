//! Settings of the secrets and of the tokens signed with them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::parse::token_lifetime;

/// Secret files.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keys and tokens")]
pub struct Keys {
    /// File of the Ed25519 keys that sign access tokens, in PEM (PKCS#8): one or two, newest first;
    /// created if absent; mode 0600 or stricter [default: signing-key.pem in DATA_DIR]
    #[arg(long, env = "SIGNING_KEY_FILE", value_name = "FILE")]
    pub signing_key_file: Option<PathBuf>,
    /// File of the token that authenticates calls between services; created if absent; mode 0600 or
    /// stricter [default: service-token in DATA_DIR]
    #[arg(long, env = "SERVICE_TOKEN_FILE", value_name = "FILE")]
    pub service_token_file: Option<PathBuf>,
}

/// Access and refresh tokens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keys and tokens")]
pub struct Tokens {
    /// Issuer (`iss`) of access tokens, the same for all roles; tokens of another issuer are refused
    #[arg(
        long,
        env = "TOKEN_ISSUER",
        value_name = "NAME",
        default_value = "tidings",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub token_issuer: String,
    /// Lifetime of an access token, at least 1s. The gateway ignores it [default: 1h in serve, 5m in the
    /// roles]
    #[arg(long, env = "ACCESS_TOKEN_TTL", value_name = "DURATION", value_parser = token_lifetime)]
    pub access_token_ttl: Option<Duration>,
    /// Lifetime of a refresh token, at least 1s; a session ends when its refresh token is not used for
    /// this long. The gateway ignores it
    #[arg(
        long,
        env = "REFRESH_TOKEN_TTL",
        value_name = "DURATION",
        default_value = "30d",
        value_parser = token_lifetime
    )]
    pub refresh_token_ttl: Duration,
}
