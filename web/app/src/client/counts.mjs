import { makeVar } from '@apollo/client';

/**
 * The counts of the newest frame. Null before the first one.
 * @type {import('@apollo/client').ReactiveVar<
 *   null | { total: number, rows: Map<string, number>, stale: boolean, isWhole: boolean }>}
 */
export const counts = makeVar(null);

/** Shows a frame in every component that reads `unreadCount` or `total`. */
export function applyFrame({ kind, total, stale, truncated, changed }) {
  const known = kind === 'SNAPSHOT' ? { rows: [], isWhole: !truncated } : counts();
  const rows = new Map(known.rows);
  for (const { dialogId, unread } of changed) rows.set(dialogId, unread);
  counts({ total, stale, rows, isWhole: known.isWhole });
}

// An answer to a query may arrive after a newer frame, so these fields are read from the frames.
const total = { read: (answered) => counts()?.total ?? answered };
const unreadCount = {
  read(answered, { readField }) {
    const { rows, isWhole } = counts() ?? {};
    return rows?.get(readField('id')) ?? (isWhole ? 0 : answered);
  },
};
export const typePolicies = { Unread: { fields: { total } }, Dialog: { fields: { unreadCount } } };
