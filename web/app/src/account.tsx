// The account: display name, sign-out here and everywhere, and the way to the tools for developers.
import { useApolloClient, useQuery } from '@apollo/client/react';
import { useState, type FormEvent } from 'react';
import { endIfRejected } from './connection';
import { Field, Modal, Problem, useAction } from './fields';
import { EndSessionDocument, LogoutDocument, SessionsDocument, UpdateMeDocument, type PersonFragment } from './generated';
import { shortTime } from './people';
import { beginSignOut, renamed, signedOut } from './session';
import { texts } from './texts';

export function AccountButton({ user }: { user: PersonFragment }) {
  const [open, setOpen] = useState(false);
  const trigger = (
    <button className="plain account" aria-label={`${texts.account.title}: ${user.name}`}>
      <span dir="auto">{user.name}</span>
    </button>
  );
  return (
    <Modal title={texts.account.title} trigger={trigger} open={open} onOpenChange={setOpen}>
      <Account user={user} />
    </Modal>
  );
}

function Account({ user }: { user: PersonFragment }) {
  const client = useApolloClient();
  const [saved, setSaved] = useState(false);
  const { busy, error, run } = useAction();

  function save(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const name = String(new FormData(event.currentTarget).get('name')).trim();
    setSaved(false);
    void run(async () => {
      const { data } = await client.mutate({ mutation: UpdateMeDocument, variables: { name } });
      renamed(data!.updateMe);
      setSaved(true);
    });
  }

  const signOut = (everywhere: boolean) =>
    run(async () => {
      beginSignOut();
      // Signing out here works without an answer of the server. Everywhere does not.
      const answer = client.mutate({ mutation: LogoutDocument, variables: { everywhere } });
      await answer.catch((problem) => {
        if (everywhere && !endIfRejected(problem)) throw problem;
      });
      signedOut('signedOut');
    });

  return (
    <>
      <p>@{user.login}</p>
      <form className="row" onSubmit={save}>
        <Field label={texts.account.name} name="name" required maxLength={64} defaultValue={user.name} />
        <button className="plain" disabled={busy}>{texts.account.save}</button>
      </form>
      <p role="status">{saved && texts.account.saved}</p>
      <Problem error={error} />
      <p className="row">
        <button disabled={busy} onClick={() => void signOut(false)}>{texts.account.signOut}</button>
        <button className="danger" disabled={busy} onClick={() => void signOut(true)}>{texts.account.everywhere}</button>
      </p>
      <Sessions />
      <h3>{texts.account.tools}</h3>
      <p className="row">
        <a href="/graphiql">{texts.account.graphiql}</a>
        <a href="/playground">{texts.account.playground}</a>
      </p>
    </>
  );
}

/** The devices on which the user is signed in. */
function Sessions() {
  const client = useApolloClient();
  const { data, refetch } = useQuery(SessionsDocument, { fetchPolicy: 'network-only' });
  const { busy, error, run } = useAction();
  const end = (id: string) =>
    run(async () => {
      await client.mutate({ mutation: EndSessionDocument, variables: { id } });
      await refetch();
    });
  return (
    <>
      <h3>{texts.account.sessions}</h3>
      <Problem error={error} />
      <ul className="sessions">
        {data?.me?.sessions?.map(({ id, deviceName, userAgent, lastUsedAt, current }) => {
          const device = deviceName ?? userAgent ?? texts.account.unknownDevice;
          return (
            <li key={id}>
              <span dir="auto">{device}</span>{' '}
              <small>{current ? texts.account.thisDevice : texts.account.lastUsed(shortTime(lastUsedAt))}</small>
              {!current && (
                <button className="plain" disabled={busy} aria-label={texts.account.endLabel(device)} onClick={() => void end(id)}>
                  {texts.account.end}
                </button>
              )}
            </li>
          );
        })}
      </ul>
    </>
  );
}
