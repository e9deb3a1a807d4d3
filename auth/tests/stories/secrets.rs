//! No token, password or hash is in a log line, an error or an event.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use proto::auth::{ChangePasswordRequest, LogoutRequest};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::app::{Service, registration};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn nothing_secret_is_logged_at_any_level_or_told_in_an_error_or_an_event() {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("trace")).with_ansi(false);
    tracing::subscriber::set_global_default(log.with_writer(lines.clone()).finish()).unwrap();
    for mut service in Service::each().await {
        let (first, second) = ("hunter2-is-secret", "swordfish-is-secret");
        let mut told = String::new();
        let request =
            proto::auth::RegisterRequest { password: first.to_owned(), ..registration("secretive") };
        let session = service.nobody().register(request.clone()).await.unwrap().into_inner();
        told += &format!("{:?}", service.nobody().register(request).await.unwrap_err());
        told += &format!("{:?}", service.login("secretive", second).await.unwrap_err());
        let refreshed = service.refresh(&session.refresh_token).await.unwrap();
        let twice = service.refresh(&refreshed.refresh_token).await.unwrap();
        let change = ChangePasswordRequest { old: second.to_owned(), new: first.to_owned() };
        told +=
            &format!("{:?}", service.with(&twice.access_token).change_password(change).await.unwrap_err());
        let change = ChangePasswordRequest { old: first.to_owned(), new: second.to_owned() };
        let changed = service.with(&twice.access_token).change_password(change).await.unwrap().into_inner();
        told += &format!("{:?}", service.refresh(&twice.refresh_token).await.unwrap_err());
        let other = service.login("secretive", second).await.unwrap();
        let mut used = vec![other.refresh_token.clone()];
        for _ in 0..2 {
            used.push(service.refresh(&used[used.len() - 1]).await.unwrap().refresh_token);
        }
        told += &format!("{:?}", service.refresh(&other.refresh_token).await.unwrap_err());
        service.with(&changed.access_token).logout(LogoutRequest { everywhere: true }).await.unwrap();
        for record in service.records(7).await {
            told += &format!("{record:?} {}", String::from_utf8_lossy(&record.payload));
        }
        let logged = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
        assert!(logged.contains("auth.login") && logged.contains("its session ends"), "the log is on");
        let mut secrets = vec![first, second, "$argon2id$"];
        for session in [&session, &refreshed, &twice, &changed, &other] {
            secrets.push(&session.refresh_token);
            secrets.push(session.access_token.rsplit_once('.').unwrap().1);
        }
        secrets.extend(used.iter().map(String::as_str));
        for secret in secrets {
            assert!(!logged.contains(secret), "{}: {secret} is in the log", service.name);
            assert!(!told.contains(secret), "{}: {secret} is in an error or an event", service.name);
        }
    }
}
