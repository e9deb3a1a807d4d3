// What the stories of all clients share: people who register and talk over plain fetch, frames that are waited for, and a
// line to the program that can be cut. A client's file is `client-NAME.mjs`; the runners find it by its name. Where there
// are two gateways, clients watch at one of them, people write and read at the other, and a line that is cut leads to the other.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { basename } from 'node:path';
import { inspect } from 'node:util';

/** Where the program is, for clients: `http://127.0.0.1:port`. */
export const PROGRAM = process.env.TIDINGS_URL;
assert(PROGRAM, 'TIDINGS_URL says where the program is: see tests/clients/run');

/** Where people write and read: another gateway, or the same. */
export const OTHER = process.env.TIDINGS_OTHER_URL || PROGRAM;

/** The gateways that stand behind the first address, by the names that the stack has for them. */
export const GATEWAYS = (process.env.TIDINGS_GATEWAYS || 'alone').split(' ');

/** How long something that was asked for may take. */
export const PATIENCE_MS = 15_000;

const CLIENT = basename(process.argv[1], '.mjs');
/** What every client does, as the name of its test. */
export const STORY = `${CLIENT}: sign in, subscribe, receive a send, read, receive the zero, lose the connection, resume`;

export const UNREAD = 'subscription Unread($since: String) { unread(since: $since) { kind version total } }';

/** A person who is signed in. */
export class Person {
  /** Registers with a login that begins like this. */
  static async register(name) {
    const input = { login: `${name}-${randomUUID().slice(0, 8)}`, password: 'correct horse' };
    const document = `mutation($input: RegisterInput!) {
      register(input: $input) { accessToken refreshToken expiresAt user { id } }
    }`;
    const { user, ...tokens } = (await ask(document, { input })).register;
    return new Person(user.id, tokens.accessToken, tokens);
  }

  constructor(id, token, tokens) {
    Object.assign(this, { id, token, tokens, authorization: `Bearer ${token}` });
  }

  /** The data of an answer without errors. */
  ask(document, variables) {
    return ask(document, variables, this.authorization);
  }

  /** A group with somebody else; its id. */
  async talkTo(other) {
    const document = 'mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }';
    const input = { participantIds: [other.id], title: 'a talk' };
    return (await this.ask(document, { input })).createDialog.id;
  }

  async send(dialogId, text = 'hello', clientKey = undefined) {
    const document = 'mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }';
    return (await this.ask(document, { input: { dialogId, text, clientKey } })).sendMessage.id;
  }

  /** The total of what is unread, at this version at least. */
  async unread(atLeast) {
    return (await this.ask('query($atLeast: String) { unread(atLeast: $atLeast) { total } }', { atLeast })).unread.total;
  }

  async read(dialogId) {
    await this.ask('mutation($input: MarkReadInput!) { markRead(input: $input) { total } }', { input: { dialogId } });
  }
}

async function ask(query, variables, authorization) {
  const headers = { 'content-type': 'application/json', ...(authorization && { authorization }) };
  const answer = await fetch(`${OTHER}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
  const { data, errors } = await answer.json();
  assert.equal(errors, undefined, JSON.stringify(errors));
  return data;
}

/** What a stream has brought and was not looked at yet. */
export class Frames {
  #waiting = [];
  #wake = () => {};

  push(frame) {
    this.#waiting.push(frame);
    this.#wake();
  }

  /** The next frame. */
  async next() {
    const late = AbortSignal.timeout(PATIENCE_MS);
    while (this.#waiting.length === 0) {
      await new Promise((resolve, reject) => {
        this.#wake = resolve;
        late.onabort = () => reject(new Error('waited in vain for a frame'));
      });
    }
    return this.#waiting.shift();
  }

  /** Frames until the total is this one, which is given. Changes may come merged. */
  async untilTotal(total) {
    for (;;) {
      const frame = await this.next();
      if (frame.total === total) return frame;
      assert(frame.total < total || total === 0, `${inspect(frame)} on the way to ${total}`);
    }
  }
}

/** A line to the program that can be cut as networks do: without a word. */
export class Line {
  #sockets = new Set();
  #ends = [new URL(PROGRAM), new URL(OTHER)];

  static async open() {
    const line = new Line();
    line.server = net.createServer((near) => {
      const [{ hostname, port }] = line.#ends;
      const far = net.connect(port, hostname);
      for (const [one, other] of [[near, far], [far, near]]) {
        line.#sockets.add(one);
        one.pipe(other);
        one.on('error', () => {});
        one.on('close', () => line.#sockets.delete(one) && other.destroy());
      }
    });
    line.server.listen(0, '127.0.0.1');
    await once(line.server, 'listening');
    line.url = `http://127.0.0.1:${line.server.address().port}/graphql`;
    return line;
  }

  /** New connections lead to the other gateway. */
  turn() {
    this.#ends.reverse();
  }

  /** Resets every connection; new ones come through, to the other gateway. */
  cut() {
    this.turn();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  close() {
    this.cut();
    this.server.close();
  }
}
