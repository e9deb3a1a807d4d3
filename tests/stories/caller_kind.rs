//! Kinds of callers: the columns of both permission tables.

/// A caller by its relation to a dialog and by the credentials that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// Created the dialog and wrote the message.
    Owner,
    /// Participates in the dialog.
    Participant,
    /// Left the dialog.
    Left,
    /// Was never in the dialog.
    Outsider,
    /// A participant whose session is revoked.
    LoggedOut,
    /// Sends no token.
    Anonymous,
    /// Sends an invalid access token.
    BadToken,
    /// Sends the service token. Only services' own calls know this kind and the next.
    Service,
    /// Sends another service token.
    WrongService,
}

impl CallerKind {
    /// Columns of the table of gRPC calls.
    pub const ALL: [Self; 9] = [
        Self::Owner,
        Self::Participant,
        Self::Left,
        Self::Outsider,
        Self::LoggedOut,
        Self::Anonymous,
        Self::BadToken,
        Self::Service,
        Self::WrongService,
    ];
    /// Columns of the table of GraphQL fields.
    pub const CLIENTS: [Self; 7] = [
        Self::Owner,
        Self::Participant,
        Self::Left,
        Self::Outsider,
        Self::LoggedOut,
        Self::Anonymous,
        Self::BadToken,
    ];
}
