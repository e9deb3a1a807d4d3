// The subscriptions of the page: each writes its frames into Apollo's cache.
import type { ApolloClient } from '@apollo/client';
import { useApolloClient, useSubscription } from '@apollo/client/react';
import { useCallback, useEffect, useRef, useState } from 'react';
import { addDialog, addMessage, forgetHistory, removeDialog } from './cache';
import { applyFrame } from './client/counts.mjs';
import { endIfRejected } from './connection';
import {
  ChangedDialogsDocument, DialogListDocument, MessagesDocument, ReadStatesDocument, UnreadDocument,
  type MessagePartsFragment, type ReadStatesSubscription,
} from './generated';
import { goTo } from './hooks';

const OPTIONS = { ignoreResults: true, errorPolicy: 'all', onError: endIfRejected } as const;

/** Time in which changes are gathered before their dialogs are loaded. */
const GATHERED_MS = 50;
/** The limit of `nodes`. */
const IDS_MAX = 100;

/** Follows the counts. The dialogs of a change are loaded, for their newest message; the open one has its own stream. */
export function useUnreadFrames(openId: string | null) {
  const client = useApolloClient();
  const changed = useRef(new Set<string>());
  useSubscription(UnreadDocument, {
    ...OPTIONS,
    onData({ data: { data } }) {
      if (!data) return;
      applyFrame(data.unread);
      if (data.unread.kind !== 'CHANGE') return;
      if (changed.current.size === 0) setTimeout(() => void loadDialogs(client, changed.current), GATHERED_MS);
      for (const { dialogId } of data.unread.changed) if (dialogId !== openId) changed.current.add(dialogId);
    },
  });
}

/** Loads the dialogs of a set and empties it. */
async function loadDialogs(client: ApolloClient, changed: Set<string>) {
  const ids = [...changed].slice(0, IDS_MAX);
  for (const id of ids) changed.delete(id);
  if (ids.length === 0) return;
  const query = { query: ChangedDialogsDocument, variables: { ids }, fetchPolicy: 'network-only', errorPolicy: 'all' } as const;
  const answer = await client.query(query).catch(() => null); // The next frame or RESET brings what is missing.
  for (const node of answer?.data?.nodes ?? []) if (node?.__typename === 'Dialog') addDialog(client.cache, node);
  if (changed.size > 0) await loadDialogs(client, changed);
}

/** Follows the list of dialogs. `reload` loads it. */
export function useListFrames(openId: string | null, reload: () => Promise<unknown>) {
  const { cache } = useApolloClient();
  // A load that runs while a frame arrives may not know of it, and is repeated.
  const state = useRef({ loading: false, again: false });
  const load = useCallback(async () => {
    if (state.current.loading) return;
    state.current.loading = true;
    do {
      state.current.again = false;
      await reload().catch(endIfRejected);
    } while (state.current.again);
    state.current.loading = false;
  }, [reload]);
  useSubscription(DialogListDocument, {
    ...OPTIONS,
    onData({ data: { data } }) {
      if (!data) return;
      const { kind, dialogId, dialog } = data.dialogs;
      state.current.again = true;
      if (kind === 'RESET' || (!dialog && kind !== 'LEFT')) void load();
      else if (dialog) addDialog(cache, dialog);
      else if (dialogId) removeDialog(cache, dialogId);
      if (kind === 'LEFT' && dialogId === openId) goTo(null);
    },
  });
}

/** The version of each dialog up to which its messages are in the cache. */
const versions = new WeakMap<ApolloClient, Map<string, string>>();

/** Follows the messages of a dialog, from where an earlier stream of it ended. `arrived` receives each new one. */
export function useMessageFrames(
  dialogId: string,
  isLoaded: boolean,
  reload: () => Promise<unknown>,
  arrived: (it: MessagePartsFragment) => void,
) {
  const client = useApolloClient();
  if (!versions.has(client)) versions.set(client, new Map());
  const known = versions.get(client)!;
  const [since] = useState(() => known.get(dialogId) ?? null);
  // Messages that arrive while the history is loaded. The answer may be older than they are.
  const early = useRef<MessagePartsFragment[]>([]);
  // A history without a version could not be continued.
  useEffect(() => () => void (known.has(dialogId) || forgetHistory(client.cache, dialogId)), [client, known, dialogId]);
  useEffect(() => {
    if (isLoaded) for (const message of early.current.splice(0)) addMessage(client.cache, message);
  }, [client, isLoaded]);
  useSubscription(MessagesDocument, {
    ...OPTIONS,
    variables: { dialogId, since },
    onData({ data: { data } }) {
      if (!data) return;
      const { kind, version, message } = data.messages;
      known.set(dialogId, version);
      if (kind === 'RESET') {
        forgetHistory(client.cache, dialogId);
        void reload().catch(endIfRejected);
      }
      if (!message) return;
      if (!isLoaded) early.current.push(message);
      addMessage(client.cache, message);
      if (kind === 'SENT') arrived(message);
    },
  });
}

type Receipt = ReadStatesSubscription['readStates'];

/** Returns how far each participant has read. */
export function useReceipts(dialogId: string): ReadonlyMap<string, Receipt> {
  const [receipts, setReceipts] = useState<ReadonlyMap<string, Receipt>>(new Map());
  useSubscription(ReadStatesDocument, {
    ...OPTIONS,
    variables: { dialogId },
    onData({ data: { data } }) {
      if (data) setReceipts((known) => new Map(known).set(data.readStates.userId, data.readStates));
    },
  });
  return receipts;
}
