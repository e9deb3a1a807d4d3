// Messages that were typed and are not yet sent, in IndexedDB: they survive a lost connection and a closed tab. One tab of the
// browser sends them, in order, each with a key, so that none is sent twice.
import { makeVar, type ApolloClient } from '@apollo/client';
import { openDB, type DBSchema } from 'idb';
import { addMessage } from './cache';
import { endIfRejected, errorCode } from './connection';
import { SendMessageDocument, type MessagePartsFragment } from './generated';

export interface Entry {
  /** Position in the outbox. */
  order?: number;
  /** Idempotency key: the server stores a message once, however often it is sent. */
  key: string;
  userId: string;
  dialogId: string;
  text: string;
  /** The newest message that the user had seen, which the server marks as read. */
  readUpTo: string | null;
  /** The `seq` of the newest message when the user pressed Send. */
  after: number;
  /** Why the server refuses it. It is sent again only if the user says so. */
  error?: string;
}

interface Schema extends DBSchema {
  outbox: { key: number; value: Entry };
}

/** Errors that another attempt would not change. */
const FINAL = new Set(['BAD_USER_INPUT', 'NOT_FOUND', 'CONFLICT', 'LIMIT_EXCEEDED', 'BAD_REQUEST']);
const PAUSE_MAX_MS = 5000;

const database = openDB<Schema>('tidings', 1, {
  upgrade: (db) => void db.createObjectStore('outbox', { keyPath: 'order', autoIncrement: true }),
});
const otherTabs = new BroadcastChannel('tidings.outbox');
const wake = new EventTarget();

/** The entries of all dialogs, oldest first. */
export const outbox = makeVar<Entry[]>([]);

async function reload() {
  outbox(await (await database).getAll('outbox'));
  wake.dispatchEvent(new Event('wake'));
}

async function changed() {
  await reload();
  otherTabs.postMessage('changed');
}

otherTabs.onmessage = reload;
addEventListener('online', () => wake.dispatchEvent(new Event('wake')));

/** Stores a message to be sent. */
export async function enqueue(entry: Omit<Entry, 'key' | 'order'>) {
  await (await database).add('outbox', { ...entry, key: newKey() });
  await changed();
}

/** Sends a refused entry again, with a new key. */
export async function retry(entry: Entry) {
  await (await database).put('outbox', { ...entry, key: newKey(), error: undefined });
  await changed();
}

export async function discard(entry: Entry) {
  await (await database).delete('outbox', entry.order!);
  await changed();
}

/** Returns a random key. `crypto.randomUUID` exists on https and on loopback addresses only. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Sends the user's entries until the returned function is called. Of several tabs, one sends at a time. */
export function startSending(client: ApolloClient, userId: string): () => void {
  const stop = new AbortController();
  const send = async () => {
    await reload();
    while (!stop.signal.aborted) {
      const entry = outbox().find((it) => it.userId === userId && !it.error);
      if (entry) await sendOne(client, entry, stop.signal);
      else await untilWoken(stop.signal, Infinity);
    }
  };
  const ended = (error: unknown) => {
    if (!stop.signal.aborted) throw error;
  };
  if (navigator.locks) navigator.locks.request('tidings.outbox', { signal: stop.signal }, send).catch(ended);
  else void send();
  void reload();
  return () => stop.abort();
}

async function sendOne(client: ApolloClient, entry: Entry, signal: AbortSignal) {
  const { dialogId, text, key: clientKey, readUpTo } = entry;
  for (let attempt = 0; !signal.aborted; attempt += 1) {
    try {
      const { data } = await client.mutate({
        mutation: SendMessageDocument,
        variables: { input: { dialogId, text, clientKey, readUpTo } },
      });
      addMessage(client.cache, data!.sendMessage);
      return discard(entry);
    } catch (error) {
      if (signal.aborted || endIfRejected(error)) return;
      if (FINAL.has(errorCode(error) ?? '')) {
        await (await database).put('outbox', { ...entry, error: (error as Error).message });
        return changed();
      }
      await untilWoken(signal, Math.min(500 * 2 ** attempt, PAUSE_MAX_MS));
    }
  }
}

function untilWoken(signal: AbortSignal, ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = ms < Infinity ? setTimeout(done, ms) : undefined;
    function done() {
      clearTimeout(timer);
      wake.removeEventListener('wake', done);
      resolve();
    }
    wake.addEventListener('wake', done);
    signal.addEventListener('abort', done, { once: true });
  });
}

/** Returns the entries that are not among the messages yet. The stream may bring a message before the answer to its mutation. */
export function unsent(entries: Entry[], messages: readonly MessagePartsFragment[], userId: string): Entry[] {
  const claimed = new Set<string>();
  return entries.filter(({ text, after, error }) => {
    if (error) return true;
    const sent = messages.find((it) => it.senderId === userId && it.seq > after && it.text === text && !claimed.has(it.id));
    if (sent) claimed.add(sent.id);
    return !sent;
  });
}
