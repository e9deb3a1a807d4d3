// Initial tabs of both pages. In order, they find a user, create a dialog, send a message, watch it and mark it as read.
const queries = [
  `# Users whose login or name starts with the text.
# Copy an id into CreateDialog.
query FindPeople {
  me { id name }
  users(search: "bob", first: 10) {
    nodes { id login name }
  }
}
`,
  `# Creates a dialog with other users and you.
# Two users have one dialog without a title.
# Copy its id into the following tabs.
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
  `# The message is PENDING until it is counted:
# WatchMessages shows it become COMMITTED.
# A clientKey makes retries safe.
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
  `# Your unread counts.
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
  `# Live unread counts: a snapshot, then changes.
# GraphiQL stops it when you open another tab.
# The badge above has its own subscription.
subscription WatchUnread {
  unread {
    kind
    version
    total
    changed { dialogId unread readSeq lastSeq }
  }
}
`,
  `# Live messages of a dialog: since "0" starts at
# the first, a version after it, else now.
# GraphiQL shows only the latest frame.
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
  `# Marks a dialog as read; with upTo (the id of
# a message) up to and including that message.
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
  `# The same as Register in the bar above. Send the
# accessToken in the headers, as shown below:
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

/** Tabs to open when none are stored. */
export const examples = queries.map((query) => ({ query }));
