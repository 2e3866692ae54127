//! Bytes that nobody may see: passwords and tokens. A [`Secret`] shows nothing of itself in a log or an error; whoever
//! needs the text asks for it by name, so that each such place can be found.

use std::fmt;

/// See the module.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Never for a log, an error, or another process's command line.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Messages with a secret in them are made without `Debug` by the generator; these show that there is one.
macro_rules! hidden {
    ($($message:ident),*) => {
        $(impl fmt::Debug for crate::pb::$message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(..)"))
            }
        })*
    };
}

hidden!(LoginRequest, AddUserRequest, SetPasswordRequest, TokenReply, NewToken);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn nothing_of_a_secret_is_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
        let login = pb::LoginRequest { user: "u".to_owned(), password: "hunter2".to_owned() };
        let up = pb::mount_up::Msg::NewToken(pb::NewToken { token: "hunter2".to_owned() });
        for shown in [format!("{login:?}"), format!("{up:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
