//! Embedded migrations are read again when their folder changes.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
