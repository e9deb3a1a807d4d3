//! `tidings keygen`: creates the signing key and the service token, and rotates the signing key.

use std::path::Path;

use access::{ServiceToken, SigningKeys};
use anyhow::Context;

use crate::{
    private_folder,
    settings::{Keygen, Keys, Rotation},
};

/// Default name of the file of the signing keys.
pub const SIGNING_KEY: &str = "signing-key.pem";
/// Default name of the file of the service token.
pub const SERVICE_TOKEN: &str = "service-token";

/// Creates the files that are absent. With `rotate`, also takes the steps of a rotation of the signing key.
///
/// # Errors
/// Fails if a file cannot be read or written, or if a step of the rotation is not due.
pub fn run(settings: &Keygen) -> anyhow::Result<()> {
    let (mut signing, _) = load_or_create(&settings.data_dir, &settings.keys)?;
    let path = settings.keys.signing_key_file.clone().unwrap_or_else(|| settings.data_dir.join(SIGNING_KEY));
    if let Some(rotation) = settings.rotate {
        match rotation {
            Rotation::AtOnce => signing.rotate(),
            Rotation::Publish => signing.publish_next(),
            Rotation::Sign => signing.sign_with_next(),
        }
        .with_context(|| path.display().to_string())?;
        signing.save(&path).context("cannot write the signing keys")?;
    }
    let rotation = settings.rotate.map(tracing::field::debug);
    tracing::info!(signing_key_file = %path.display(), rotation, "keys are in place");
    Ok(())
}

/// Loads both secrets; creates those that are absent, and `data_dir`.
pub fn load_or_create(data_dir: &Path, keys: &Keys) -> anyhow::Result<(SigningKeys, ServiceToken)> {
    private_folder::create(data_dir)?;
    let in_data_dir = |name: &str| data_dir.join(name);
    let path = keys.signing_key_file.clone().unwrap_or_else(|| in_data_dir(SIGNING_KEY));
    let signing = SigningKeys::load_or_create(&path).context("SIGNING_KEY_FILE")?;
    let path = keys.service_token_file.clone().unwrap_or_else(|| in_data_dir(SERVICE_TOKEN));
    let token = ServiceToken::load_or_create(&path).context("SERVICE_TOKEN_FILE")?;
    Ok((signing, token))
}
