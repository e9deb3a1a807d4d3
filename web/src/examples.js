// The tabs that a new visitor of either page finds: the story of one message, from finding somebody to a counter that is zero again.
const queries = [
  `# People whose login or name begins so.
# An id of theirs goes into CreateDialog.
query FindPeople {
  me { id name }
  users(search: "bob", first: 10) {
    nodes { id login name }
  }
}
`,
  `# A dialog with others; you are in it anyway.
# Two people without a title have only one.
# Its id goes into the tabs that follow.
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
  `# PENDING until the counters have confirmed it:
# WatchMessages shows how it becomes COMMITTED.
# With a clientKey a repetition is harmless.
mutation SendMessage {
  sendMessage(
    input: {
      dialogId: "PUT-THE-DIALOG-ID-HERE"
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
# In GraphiQL it ends when you turn to another of
# these tabs. The bar above stays live.
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
# The newest frame is shown.
subscription WatchMessages {
  messages(
    dialogId: "PUT-THE-DIALOG-ID-HERE"
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
    input: { dialogId: "PUT-THE-DIALOG-ID-HERE" }
  ) {
    version
    total
    dialog { unread readSeq }
  }
}
`,
  `# What Register in the bar above does. A program puts
# the accessToken into its headers, as you see below:
# { "authorization": "Bearer ..." }
mutation Register {
  register(
    input: { login: "dave", password: "correct horse" }
  ) {
    user { id login name }
    accessToken
    refreshToken
    expiresAt
  }
}
`,
];

/** What is opened where no tabs are remembered. */
export const examples = queries.map((query) => ({ query }));
