//! Redacted `Debug` for messages that carry passwords, tokens or message texts: it prints the type name
//! only. `build.rs` has the same list and generates these messages without `Debug`; keep the two in step.

use std::fmt;

macro_rules! redacted {
    ($($message:ty),+ $(,)?) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(..)"))
            }
        })+
    };
}

redacted!(
    crate::auth::Session,
    crate::auth::RegisterRequest,
    crate::auth::LoginRequest,
    crate::auth::RefreshRequest,
    crate::auth::ChangePasswordRequest,
    crate::dialog::Message,
    crate::dialog::SendRequest,
);

#[cfg(test)]
mod tests {
    use crate::{auth, dialog};

    #[test]
    fn debug_of_a_message_with_a_secret_prints_its_name_only() {
        let hidden = || "hidden".to_owned();
        let message = dialog::Message { text: hidden(), ..Default::default() };
        let shown = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:#?}",
            auth::Session { access_token: hidden(), refresh_token: hidden(), ..Default::default() },
            auth::RegisterRequest { password: hidden(), ..Default::default() },
            auth::LoginRequest { password: hidden(), ..Default::default() },
            auth::RefreshRequest { refresh_token: hidden(), ..Default::default() },
            auth::ChangePasswordRequest { old: hidden(), new: hidden() },
            message,
            dialog::SendRequest { text: hidden(), ..Default::default() },
            dialog::LiveReply { messages: vec![message.clone()], ..Default::default() },
            tonic::Request::new(auth::LoginRequest { password: hidden(), ..Default::default() }),
        );
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("LoginRequest(..)"), "{shown}");
    }
}
