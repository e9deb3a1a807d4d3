// Who is signed in: kept in sessionStorage, gone with the browser tab, at sign-out or when the token expires.
import { url } from './fetcher.js';

const KEY = 'tidings.session';

const SESSION = 'user { id login name } accessToken expiresAt';
const DOCUMENTS = {
  login: `mutation SignIn($input: LoginInput!) { session: login(input: $input) { ${SESSION} } }`,
  register: `mutation SignUp($input: RegisterInput!) { session: register(input: $input) { ${SESSION} } }`,
  logout: 'mutation SignOut { logout }',
};

async function ask(query, variables, token) {
  const headers = { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
  } catch {
    throw new Error('The gateway does not answer. Is it running?');
  }
  const answer = await response.json().catch(() => null);
  const message = answer?.errors?.[0]?.message;
  if (message) throw new Error(message);
  if (!answer?.data) throw new Error(`The gateway answered ${response.status} ${response.statusText}`);
  return answer.data;
}

/** Signs in (`login`) or makes an account (`register`), and remembers the session. */
export async function enter(how, input) {
  const { session } = await ask(DOCUMENTS[how], { input });
  sessionStorage.setItem(KEY, JSON.stringify(session));
  return session;
}

/** Forgets the session and ends it on the server, which may be away: it is forgotten all the same. */
export async function leave(session) {
  sessionStorage.removeItem(KEY);
  await ask(DOCUMENTS.logout, {}, session.accessToken).catch(() => {});
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
