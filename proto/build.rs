//! Compiles the .proto files with protox, so that no protoc is needed on the machine.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What must not show itself: `src/secret.rs` says how it does instead.
const SECRET: [&str; 7] = [
    ".tidings.auth.Session",
    ".tidings.auth.RegisterRequest",
    ".tidings.auth.LoginRequest",
    ".tidings.auth.RefreshRequest",
    ".tidings.auth.ChangePasswordRequest",
    ".tidings.dialog.Message",
    ".tidings.dialog.SendRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["events", "auth", "dialog", "counter"].map(|name| format!("proto/tidings/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().skip_debug(SECRET).compile_fds(descriptors)?;
    Ok(())
}
