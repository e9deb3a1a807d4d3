//! Secrecy: no token, password or hash appears in a log line, an error or an event.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parking_lot::Mutex;
use proto::auth::{ChangePasswordRequest, LogoutRequest};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::app::{Service, registration};

/// Log writer that keeps everything in memory.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogBuffer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_line_an_error_or_an_event() {
    let log_buffer = LogBuffer::default();
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("trace")).with_ansi(false);
    tracing::subscriber::set_global_default(log.with_writer(log_buffer.clone()).finish()).unwrap();
    for mut service in Service::on_each_database().await {
        let first = "hunter2-is-secret";
        let second = "swordfish-is-secret";
        let mut shown = String::new();
        let request =
            proto::auth::RegisterRequest { password: first.to_owned(), ..registration("secretive") };
        let session = service.anonymous().register(request.clone()).await.unwrap().into_inner();
        shown += &format!("{:?}", service.anonymous().register(request).await.unwrap_err());
        shown += &format!("{:?}", service.login("secretive", second).await.unwrap_err());
        let refreshed = service.refresh(&session.refresh_token).await.unwrap();
        let twice = service.refresh(&refreshed.refresh_token).await.unwrap();
        let change = ChangePasswordRequest { old: second.to_owned(), new: first.to_owned() };
        shown += &format!(
            "{:?}",
            service.with_token(&twice.access_token).change_password(change).await.unwrap_err()
        );
        let change = ChangePasswordRequest { old: first.to_owned(), new: second.to_owned() };
        let changed =
            service.with_token(&twice.access_token).change_password(change).await.unwrap().into_inner();
        shown += &format!("{:?}", service.refresh(&twice.refresh_token).await.unwrap_err());
        let other = service.login("secretive", second).await.unwrap();
        let mut used = vec![other.refresh_token.clone()];
        for _ in 0..2 {
            used.push(service.refresh(&used[used.len() - 1]).await.unwrap().refresh_token);
        }
        shown += &format!("{:?}", service.refresh(&other.refresh_token).await.unwrap_err());
        service.with_token(&changed.access_token).logout(LogoutRequest { everywhere: true }).await.unwrap();
        for record in service.records(7).await {
            shown += &format!("{record:?} {}", String::from_utf8_lossy(&record.payload));
        }
        let logged = String::from_utf8_lossy(&log_buffer.0.lock()).into_owned();
        assert!(logged.contains("auth.login") && logged.contains("session ended"), "the log is captured");
        let mut secrets = vec![first, second, "$argon2id$"];
        for session in [&session, &refreshed, &twice, &changed, &other] {
            secrets.push(&session.refresh_token);
            secrets.push(session.access_token.rsplit_once('.').unwrap().1);
        }
        secrets.extend(used.iter().map(String::as_str));
        for secret in secrets {
            assert!(!logged.contains(secret), "{}: {secret} is in the log", service.name);
            assert!(!shown.contains(secret), "{}: {secret} is in an error or an event", service.name);
        }
    }
}
