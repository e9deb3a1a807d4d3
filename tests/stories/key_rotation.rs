//! Rotation of the signing key by `tidings keygen`, with the program restarted after each step.

use std::{path::Path, process::Output};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    app::{App, program},
    caller::Caller,
};

async fn keygen(folder: &Path, flag: &str) -> Output {
    Command::new(program()).args(["keygen", flag]).env("DATA_DIR", folder).output().await.unwrap()
}

/// Takes a step of a rotation and restarts the program.
async fn rotate(app: App, flag: &str) -> App {
    let (folder, _) = app.stop().await;
    let output = keygen(folder.path(), flag).await;
    assert!(output.status.success(), "{flag}: {}", String::from_utf8_lossy(&output.stderr));
    App::start_in(folder, &[]).await
}

/// Asserts that a step is refused with one line.
async fn assert_refused(app: &App, flag: &str, reason: &str) {
    let output = keygen(app.folder.path(), flag).await;
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{flag}: {line}");
    assert!(line.contains(reason), "{flag}: {line}");
}

/// Returns the id of the key that has signed a caller's token.
fn key_id(caller: &Caller) -> String {
    let header = URL_SAFE_NO_PAD.decode(caller.token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

async fn is_accepted(caller: &Caller) -> bool {
    caller.execute("{ me { id } }", json!({})).await["data"]["me"]["id"] == *caller.id
}

#[tokio::test]
async fn a_signing_key_is_published_before_it_signs() {
    let app = App::start().await;
    let before = Caller::register(&app, "ann").await;
    assert_refused(&app, "--rotate=sign", "no next signing key is published").await;

    let app = rotate(app, "--rotate=publish").await;
    let published = Caller::register(&app, "bob").await;
    assert_eq!(key_id(&published), key_id(&before), "the new key does not sign yet");
    assert!(is_accepted(&before.at(&app)).await);
    for flag in ["--rotate=publish", "--rotate"] {
        assert_refused(&app, flag, "is published already").await;
    }

    let app = rotate(app, "--rotate=sign").await;
    let signed = Caller::register(&app, "cleo").await;
    assert_ne!(key_id(&signed), key_id(&before));
    assert!(is_accepted(&before.at(&app)).await && is_accepted(&signed).await);

    let app = rotate(app, "--rotate").await;
    let again = Caller::register(&app, "dan").await;
    assert_ne!(key_id(&again), key_id(&signed), "one step signs at once");
    assert!(is_accepted(&signed.at(&app)).await);
    assert!(!is_accepted(&before.at(&app)).await, "the key before the previous one is gone");
}
