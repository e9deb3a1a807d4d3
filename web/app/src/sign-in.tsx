// The form to sign in or to create an account. It works without Apollo's cache, which exists for a signed-in user only.
import { InMemoryCache } from '@apollo/client';
import { print } from 'graphql';
import { useState, type FormEvent } from 'react';
import { Field, Problem, useAction } from './fields';
import { LoginDocument, RegisterDocument, type SessionPartsFragment } from './generated';
import { URL_OF_API, lastEnding, signedIn } from './session';
import { texts } from './texts';

const cache = new InMemoryCache();

async function request(register: boolean, input: object): Promise<SessionPartsFragment> {
  // As Apollo Client would send it: the server may know the page's documents by their text.
  const document = cache.transformDocument(register ? RegisterDocument : LoginDocument);
  const body = JSON.stringify({ query: print(document), variables: { input } });
  const answer = await fetch(URL_OF_API, { method: 'POST', headers: { 'content-type': 'application/json' }, body }).then(
    (response) => response.json(),
    () => Promise.reject(new Error(texts.noAnswer)),
  );
  if (answer.errors) throw new Error(answer.errors[0].message);
  return answer.data.session;
}

export function SignIn() {
  const [isNew, setNew] = useState(false);
  const { busy, error, run } = useAction();
  const ending = lastEnding();

  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const text = (name: string) => String(form.get(name) ?? '');
    const credentials = { login: text('login').trim(), password: text('password') };
    const name = text('name').trim();
    void run(async () => signedIn(await request(isNew, isNew && name ? { ...credentials, name } : credentials)));
  }

  return (
    <main className="sign-in">
      <h1>{texts.title}</h1>
      <p>{texts.signIn.lead}</p>
      {ending && <p role="status">{ending === 'ended' ? texts.signIn.ended : texts.signIn.signedOut}</p>}
      <form onSubmit={submit}>
        <Field
          label={texts.signIn.login} hint={isNew ? texts.signIn.loginHint : undefined}
          name="login" required autoComplete="username" autoCapitalize="none" spellCheck={false}
        />
        <Field
          label={texts.signIn.password} hint={isNew ? texts.signIn.passwordHint : undefined}
          name="password" type="password" required autoComplete={isNew ? 'new-password' : 'current-password'}
        />
        {isNew && <Field label={texts.signIn.name} name="name" autoComplete="name" maxLength={64} />}
        <Problem error={error} />
        <button disabled={busy}>{isNew ? texts.signIn.register : texts.signIn.submit}</button>
        <button type="button" className="plain" onClick={() => setNew(!isNew)}>
          {isNew ? texts.signIn.toSignIn : texts.signIn.toRegister}
        </button>
      </form>
    </main>
  );
}
