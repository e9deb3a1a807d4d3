// How much is unread, as the gateway pushes it: on every device of a person the same number, whatever the editor below shows.
import { useEffect, useState } from 'react';
import { live, OVER, REFUSED } from './gateway.js';

const request = { query: 'subscription Badge { unread { total } }' };

/** The number, or why there is none. `onOver` is called when the gateway takes the token no longer. */
export function Badge({ session, onOver }) {
  const [total, setTotal] = useState(null);
  const [trouble, setTrouble] = useState(null);

  useEffect(() => {
    const headers = { authorization: `Bearer ${session.accessToken}` };
    const frames = live(request, headers, { connected: () => setTrouble(null), closed: () => setTrouble('reconnecting…') });
    (async () => {
      for await (const { data, errors } of frames) {
        if (data?.unread) setTotal(data.unread.total);
        else if ([REFUSED, OVER].includes(errors?.[0].extensions?.closed)) onOver();
        else setTrouble(errors?.[0].message);
      }
    })();
    return () => frames.return();
  }, [session, onOver]);

  const text = trouble ?? (total === null ? '…' : `${total} unread`);
  return <output className={total && !trouble ? 'badge some' : 'badge'}>{text}</output>;
}
