// The page at /playground: the bar to sign in, and GraphQL Playground below it, which is a script of its own (see build.mjs)
// with a React of its own. This script runs before that one, and starts it when it is there.
import './tab-storage.js';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import 'graphql-playground-react/build/static/css/middleware.css';
import './style.css';
import { examples } from './examples.js';
import { remembered } from './session.js';
import { SignIn } from './sign-in.jsx';

/** Where Playground keeps its tabs. */
const KEPT = 'graphql-playground';

const endpoint = new URL('/graphql', location.origin).href;
const options = {
  endpoint,
  subscriptionEndpoint: endpoint.replace('http', 'ws'),
  fixedEndpoint: true,
  setTitle: false,
};

/** The tabs that a new visitor finds; to give them later would throw away what stands in the editor. */
let tabs = sessionStorage.getItem(KEPT) ? undefined : examples.map((tab) => ({ ...tab, endpoint, name: nameOf(tab.query) }));

function nameOf(query) {
  return /^(?:query|mutation|subscription) (\w+)/m.exec(query)[1];
}

/** Shows Playground with the session's token in the headers of every request and in the parameters of every socket. */
function show(session) {
  const authorization = session ? `Bearer ${session.accessToken}` : undefined;
  const place = document.getElementById('playground');
  const now = { ...options, key: authorization ?? 'nobody', tabs };
  // Settings are taken over when it is mounted, so another key mounts it anew; what is running goes on. Then they are left to
  // the person again: as long as they are given, its own settings (the theme) have no effect.
  const settings = { 'request.globalHeaders': authorization ? { authorization } : {}, 'schema.polling.enable': false };
  window.GraphQLPlayground.init(place, { ...now, settings });
  window.GraphQLPlayground.init(place, now);
  tabs = undefined;
}

function App() {
  const [session, setSession] = useState(remembered);
  useEffect(() => show(session), [session]);
  return <SignIn session={session} onSession={setSession} other={{ name: 'GraphiQL', path: '/' }} />;
}

// A link must not bring an endpoint or a text for the editor along, as Playground would let it.
if (location.search) history.replaceState(null, '', location.pathname);
document.addEventListener('DOMContentLoaded', () => createRoot(document.getElementById('bar')).render(<App />));
