// Gateways are killed while they hold the socket of graphql-ws, as docs/clients.md has it: the counts go on at the other one.
// Of stacks alone, see tests/clients/run-stack: those behind the first address are killed one after the other.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { code } from './page.mjs';
import { Frames, GATEWAYS, Line, PATIENCE_MS, Person, UNREAD } from './story.mjs';

const UP = new URL('../../deploy/stack/up.sh', import.meta.url).pathname;
const { openSocket } = await code('socket.mjs');
const { Session } = await code('session.mjs');

const kill = (gateway) => process.kill(Number(readFileSync(`${process.env.STACK_DIR}/${gateway}.pid`, 'utf8')), 'SIGKILL');
const startAgain = () => execFileSync(UP, { stdio: ['ignore', 'ignore', 'pipe'] });

/** Sends until it is acknowledged: by its key it is one message, however often it is sent. */
async function sendForSure(person, dialog) {
  const key = randomUUID();
  const late = AbortSignal.timeout(PATIENCE_MS);
  for (;;) {
    try {
      return await person.send(dialog, 'hello', key);
    } catch (error) {
      if (late.aborted) throw error;
      await setTimeout(50);
    }
  }
}

test('a gateway is killed with the socket on it: the socket goes on at the other one, and at the first when it is back', async () => {
  const [ann, bob, line] = await Promise.all([Person.register('ann'), Person.register('bob'), Line.open()]);
  after(() => line.close());
  const dialog = await ann.talkTo(bob);
  const frames = new Frames();
  const socket = openSocket(line.url, new Session(line.url, bob.tokens));
  after(() => socket.dispose());
  let connections = 0;
  socket.on('connected', () => (connections += 1));
  const next = ({ data }) => frames.push(data.unread);
  socket.subscribe({ query: UNREAD }, { next, error: (error) => frames.push({ error }), complete() {} });
  assert.equal((await frames.next()).kind, 'SNAPSHOT');

  for (const [index, gateway] of GATEWAYS.entries()) {
    kill(gateway);
    line.turn();
    await sendForSure(ann, dialog);
    await frames.untilTotal(index + 1);
    startAgain();
  }
  assert(connections > 1, 'one of those who were killed had the socket');
  line.cut();
  assert.equal((await frames.next()).kind, 'CURRENT', 'nothing was missed');
});
