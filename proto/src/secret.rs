//! Messages that hold what nobody but the two sides may see: passwords, tokens, and what people write to each other. Their
//! bindings are made without `Debug` (build.rs has the same list); here each shows its name alone.

use std::fmt;

macro_rules! hidden {
    ($($message:ty),+ $(,)?) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(..)"))
            }
        })+
    };
}

hidden!(
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
    fn a_message_with_a_secret_shows_none_of_it() {
        let hidden = || "hidden".to_owned();
        let message = dialog::Message { text: hidden(), ..Default::default() };
        let shown = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:#?}",
            auth::Session { access_token: hidden(), refresh_token: hidden(), ..Default::default() },
            auth::RegisterRequest { password: hidden(), ..Default::default() },
            auth::LoginRequest { password: hidden(), ..Default::default() },
            auth::RefreshRequest { refresh_token: hidden() },
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
