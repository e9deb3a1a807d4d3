// The tabs that a new visitor finds: the story of one message, from an account to a counter that is zero again.
const SESSION = `{
    user { id login name }
    accessToken
    refreshToken
    expiresAt
  }`;

const queries = [
  `# An account. The form above does the same
# and puts the token into the headers below.
mutation Register {
  register(
    input: { login: "ada", password: "correct horse" }
  ) ${SESSION}
}
`,
  `# People whose login or name begins so.
# Their ids go into createDialog.
query FindPeople {
  me { id name }
  users(search: "ad", first: 10) {
    nodes { id login name }
  }
}
`,
  `# A dialog with others; you are in it anyway.
# Two people without a title have only one.
mutation CreateDialog {
  createDialog(
    input: { participantIds: ["PUT-A-USER-ID-HERE"] }
  ) {
    id
    direct
    participants { nodes { id name } }
  }
}
`,
  `# PENDING until the counters have confirmed it.
# With a clientKey a repetition is harmless.
mutation SendMessage {
  sendMessage(
    input: {
      dialogId: "PUT-A-DIALOG-ID-HERE"
      text: "Good tidings!"
    }
  ) {
    id
    seq
    status
    transactionId
    createdAt
  }
}
`,
  `# What you have not read, now.
query Unread {
  unread {
    total
    version
    dialogs {
      dialogId
      unread
      dialog {
        title
        lastMessage { text sender { name } }
      }
    }
  }
}
`,
  `# The same, live: all of it, then every change.
# Leave it running, write from another browser tab.
subscription WatchUnread {
  unread {
    kind
    version
    total
    changed { dialogId unread readSeq lastSeq }
  }
}
`,
  `# A dialog, live: since "0" is its beginning,
# since a version from there, else from now on.
subscription WatchMessages {
  messages(
    dialogId: "PUT-A-DIALOG-ID-HERE"
    since: "0"
  ) {
    kind
    version
    message {
      id
      seq
      text
      status
      sender { name }
    }
  }
}
`,
  `# All of a dialog is read; with upTo (the id
# of a message) all up to that one.
mutation MarkRead {
  markRead(
    input: { dialogId: "PUT-A-DIALOG-ID-HERE" }
  ) {
    version
    total
    dialog { unread readSeq }
  }
}
`,
];

/** What GraphiQL opens where it remembers no tabs. */
export const examples = queries.map((query) => ({ query }));
