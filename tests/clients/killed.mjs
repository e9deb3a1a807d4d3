// Gateways killed while they hold a socket of graphql-ws, with the code of docs/clients.md: counts continue at the other
// gateway. Runs only against a stack (tests/clients/run-stack), whose gateways are killed one after the other.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { importSnippet } from './snippets.mjs';
import { Frames, GATEWAYS, ResettableProxy, TIMEOUT_MS, Caller, UNREAD } from './story.mjs';

const UP = new URL('../../deploy/stack/up.sh', import.meta.url).pathname;
const { openSocket } = await importSnippet('socket.mjs');
const { Session } = await importSnippet('session.mjs');

const kill = (gateway) => process.kill(Number(readFileSync(`${process.env.STACK_DIR}/${gateway}.pid`, 'utf8')), 'SIGKILL');
const restart = () => execFileSync(UP, { stdio: ['ignore', 'ignore', 'pipe'] });

/** Sends a message until it is acknowledged. The client key makes all attempts one message. */
async function sendUntilAcknowledged(caller, dialog) {
  const key = randomUUID();
  const late = AbortSignal.timeout(TIMEOUT_MS);
  for (;;) {
    try {
      return await caller.send(dialog, 'hello', key);
    } catch (error) {
      if (late.aborted) throw error;
      await setTimeout(50);
    }
  }
}

test('a socket moves to the other gateway when its gateway is killed', async () => {
  const [ann, bob, proxy] = await Promise.all([Caller.register('ann'), Caller.register('bob'), ResettableProxy.open()]);
  after(() => proxy.close());
  const dialog = await ann.createDialog(bob);
  const frames = new Frames();
  const socket = openSocket(proxy.url, new Session(proxy.url, bob.tokens));
  after(() => socket.dispose());
  let connections = 0;
  socket.on('connected', () => (connections += 1));
  const next = ({ data }) => frames.push(data.unread);
  socket.subscribe({ query: UNREAD }, { next, error: (error) => frames.push({ error }), complete() {} });
  assert.equal((await frames.next()).kind, 'SNAPSHOT');

  for (const [index, gateway] of GATEWAYS.entries()) {
    kill(gateway);
    proxy.switchTarget();
    await sendUntilAcknowledged(ann, dialog);
    await frames.untilTotal(index + 1);
    restart();
  }
  assert(connections > 1, 'a killed gateway had the socket');
  proxy.cut();
  assert.equal((await frames.next()).kind, 'CURRENT', 'no frame was missed');
});
