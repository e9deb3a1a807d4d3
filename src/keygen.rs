//! `tidings keygen`: the two secrets that the roles share.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

use access::{ServiceToken, SigningKeys};
use anyhow::Context;

use crate::settings::{Keygen, Keys};

const SIGNING_KEY: &str = "signing-key.pem";
const SERVICE_TOKEN: &str = "service-token";

/// Makes what is absent; with `rotate`, a new signing key before the present one.
pub fn run(settings: &Keygen) -> anyhow::Result<()> {
    let (mut signing, _) = load_or_create(&settings.data_dir, &settings.keys)?;
    let path = settings.keys.signing_key_file.clone().unwrap_or_else(|| settings.data_dir.join(SIGNING_KEY));
    if settings.rotate {
        signing.rotate();
        signing.save(&path).context("the signing keys cannot be written")?;
    }
    tracing::info!(signing_key_file = %path.display(), rotated = settings.rotate, "the keys are there");
    Ok(())
}

/// Reads both secrets, or makes them; the folder too.
pub fn load_or_create(data_dir: &Path, keys: &Keys) -> anyhow::Result<(SigningKeys, ServiceToken)> {
    make_folder(data_dir)?;
    let in_data_dir = |name: &str| data_dir.join(name);
    let path = keys.signing_key_file.clone().unwrap_or_else(|| in_data_dir(SIGNING_KEY));
    let signing = SigningKeys::load_or_create(&path).context("SIGNING_KEY_FILE")?;
    let path = keys.service_token_file.clone().unwrap_or_else(|| in_data_dir(SERVICE_TOKEN));
    let token = ServiceToken::load_or_create(&path).context("SERVICE_TOKEN_FILE")?;
    Ok((signing, token))
}

/// Makes `DATA_DIR` where it does not exist, closed to others: what people write is in there.
pub fn make_folder(data_dir: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.with_context(|| format!("DATA_DIR {} cannot be made", data_dir.display()))
}
