//! Compiles the .proto files with protox, which is written in Rust: the build needs no installed `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// Messages without a derived `Debug`; `src/redacted.rs` implements a redacted one for each.
const REDACTED: [&str; 7] = [
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
    tonic_prost_build::configure().skip_debug(REDACTED).compile_fds(descriptors)?;
    Ok(())
}
