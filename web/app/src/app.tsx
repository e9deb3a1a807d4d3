// The page: the sign-in form, or the list of conversations beside one of them.
import { ApolloProvider, useReactiveVar } from '@apollo/client/react';
import { useEffect, useState } from 'react';
import { AccountButton } from './account';
import { showTotal } from './badges';
import { counts } from './client/counts.mjs';
import { linkState, openConnection, type Connection } from './connection';
import { Conversation } from './conversation';
import { DialogList } from './dialog-list';
import type { PersonFragment } from './generated';
import { useRoute } from './hooks';
import { NewDialogButton } from './new-dialog';
import { startSending } from './outbox';
import { useSignedInUser } from './session';
import { SignIn } from './sign-in';
import { useUnreadFrames } from './streams';
import { texts } from './texts';

export function App() {
  const user = useSignedInUser();
  // A key, so that nothing of a user's data is left when another one signs in.
  return user ? <SignedIn key={user.id} user={user} /> : <SignIn />;
}

function SignedIn({ user }: { user: PersonFragment }) {
  const [connection, setConnection] = useState<Connection>();
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const opened = openConnection(() => setAttempt(attempt + 1));
    const stopSending = startSending(opened.client, user.id);
    setConnection(opened);
    return () => {
      stopSending();
      opened.close();
      showTotal(0);
    };
  }, [user.id, attempt]);
  if (!connection) return null;
  return (
    <ApolloProvider key={attempt} client={connection.client}>
      <Conversations user={user} />
    </ApolloProvider>
  );
}

function Conversations({ user }: { user: PersonFragment }) {
  const dialogId = useRoute();
  useUnreadFrames(dialogId);
  return (
    <main className="page" data-open={dialogId ? 'conversation' : 'list'}>
      <nav className="side" aria-label={texts.list.label}>
        <header>
          <h1>{texts.title}</h1>
          <AccountButton user={user} />
          <Status />
          <NewDialogButton userId={user.id} />
        </header>
        <DialogList user={user} openId={dialogId} />
      </nav>
      <div className="content">
        {dialogId ? (
          <Conversation key={dialogId} dialogId={dialogId} user={user} />
        ) : (
          <p className="center hint">{texts.conversation.none}</p>
        )}
      </div>
    </main>
  );
}

/** The state of the socket and the total of the counts. */
function Status() {
  const link = useReactiveVar(linkState);
  const unread = useReactiveVar(counts);
  const total = unread?.total ?? 0;
  useEffect(() => showTotal(total), [total]);
  return (
    <p className="status" role="status" data-link={link} data-total={unread?.total}>
      {texts.link[link]}
      {unread && <span className="hint">{unread.stale ? texts.stale : texts.list.total(total)}</span>}
    </p>
  );
}
