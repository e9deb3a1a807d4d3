// Badge with the total unread count, which the gateway pushes. Every device of a user shows the same number.
import { useEffect, useState } from 'react';
import { SESSION_REVOKED, subscribe, TOKEN_REJECTED } from './gateway.js';

const request = { query: 'subscription Badge { unread { total } }' };

/** Shows the count, or the reason why it is unknown. Calls `onRejected` when the gateway no longer accepts the token. */
export function Badge({ session, onRejected }) {
  const [total, setTotal] = useState(null);
  const [problem, setProblem] = useState(null);

  useEffect(() => {
    const headers = { authorization: `Bearer ${session.accessToken}` };
    const frames = subscribe(request, headers, { connected: () => setProblem(null), closed: () => setProblem('reconnecting…') });
    (async () => {
      for await (const { data, errors } of frames) {
        if (data?.unread) setTotal(data.unread.total);
        else if ([TOKEN_REJECTED, SESSION_REVOKED].includes(errors?.[0].extensions?.closed)) onRejected();
        else setProblem(errors?.[0].message);
      }
    })();
    return () => frames.return();
  }, [session, onRejected]);

  const text = problem ?? (total === null ? '…' : `${total} unread`);
  return <output className={total && !problem ? 'badge some' : 'badge'}>{text}</output>;
}
