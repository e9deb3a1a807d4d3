// The account: display name, sign-out here and everywhere, and the way to the tools for developers.
import { useApolloClient } from '@apollo/client/react';
import { useState, type FormEvent } from 'react';
import { endIfRejected } from './connection';
import { Field, Modal, Problem, useAction } from './fields';
import { LogoutDocument, UpdateMeDocument, type PersonFragment } from './generated';
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
      <h3>{texts.account.tools}</h3>
      <p className="row">
        <a href="/graphiql">{texts.account.graphiql}</a>
        <a href="/playground">{texts.account.playground}</a>
      </p>
    </>
  );
}
