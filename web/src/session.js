// Who is signed in: kept in sessionStorage, gone with the browser tab, at sign-out or when the token expires.
import { post } from './gateway.js';

const KEY = 'tidings.session';

const SESSION = 'user { id login name } accessToken expiresAt';
const DOCUMENTS = {
  login: `mutation SignIn($input: LoginInput!) { session: login(input: $input) { ${SESSION} } }`,
  register: `mutation SignUp($input: RegisterInput!) { session: register(input: $input) { ${SESSION} } }`,
  logout: 'mutation SignOut { logout }',
};

async function ask(query, variables, token) {
  const { data, errors } = await post({ query, variables }, token && { authorization: `Bearer ${token}` });
  if (errors?.length) throw new Error(errors[0].message);
  return data;
}

/** Signs in (`login`) or makes an account (`register`), and remembers the session. */
export async function enter(how, input) {
  const { session } = await ask(DOCUMENTS[how], { input });
  sessionStorage.setItem(KEY, JSON.stringify(session));
  return session;
}

/** Ends the session on the server, which may be away: it is over here all the same. */
export async function leave(session) {
  await ask(DOCUMENTS.logout, {}, session.accessToken).catch(() => {});
}

/** Forgets the session in this browser tab. */
export function forget() {
  sessionStorage.removeItem(KEY);
}

/** The session of this browser tab, or null. */
export function remembered() {
  try {
    const session = JSON.parse(sessionStorage.getItem(KEY));
    return session && remaining(session) > 0 ? session : null;
  } catch {
    return null;
  }
}

/** Milliseconds until the access token expires. */
export function remaining(session) {
  return Date.parse(session.expiresAt) - Date.now();
}
