// Shared by the tests of all clients: users that call the API with fetch, a queue of received frames, and a proxy whose
// connections can be reset. A client's test is a file `client-NAME.mjs`; the runners find it by its name. With two
// gateways, clients subscribe at one, users write and read at the other, and a reset proxy leads to the other.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { basename } from 'node:path';
import { inspect } from 'node:util';

/** Address of the program for clients: `http://127.0.0.1:port`. */
export const PROGRAM = process.env.TIDINGS_URL;
assert(PROGRAM, 'TIDINGS_URL is not set: see tests/clients/run');

/** Address where users write and read: another gateway, or the same. */
export const OTHER = process.env.TIDINGS_OTHER_URL || PROGRAM;

/** Gateways behind the first address, by their names in the stack. */
export const GATEWAYS = (process.env.TIDINGS_GATEWAYS || 'alone').split(' ');

/** Maximum time to wait for an expected event. */
export const TIMEOUT_MS = 15_000;

const CLIENT = basename(process.argv[1], '.mjs');
/** Name of the test that every client passes. */
export const STORY = `${CLIENT}: sign in, subscribe, receive a send, read, receive the zero, lose the connection, resume`;

/** Subscription to the caller's counters. */
export const UNREAD = 'subscription Unread($since: String) { unread(since: $since) { kind version total } }';

/** An authenticated user. */
export class Caller {
  /** Registers a user whose login starts with `name`. */
  static async register(name) {
    const input = { login: `${name}-${randomUUID().slice(0, 8)}`, password: 'correct horse' };
    const document = `mutation($input: RegisterInput!) {
      register(input: $input) { accessToken refreshToken expiresAt user { id } }
    }`;
    const { user, ...tokens } = (await execute(document, { input })).register;
    return new Caller(user.id, tokens.accessToken, tokens);
  }

  constructor(id, token, tokens) {
    Object.assign(this, { id, token, tokens, authorization: `Bearer ${token}` });
  }

  /** Executes a document and returns its data. Throws at any error. */
  execute(document, variables) {
    return execute(document, variables, this.authorization);
  }

  /** Creates a group with another user and returns its id. */
  async createDialog(other) {
    const document = 'mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }';
    const input = { participantIds: [other.id], title: 'a talk' };
    return (await this.execute(document, { input })).createDialog.id;
  }

  async send(dialogId, text = 'hello', clientKey = undefined) {
    const document = 'mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }';
    return (await this.execute(document, { input: { dialogId, text, clientKey } })).sendMessage.id;
  }

  /** Returns the total of unread messages, at this version or newer. */
  async unread(atLeast) {
    return (await this.execute('query($atLeast: String) { unread(atLeast: $atLeast) { total } }', { atLeast })).unread.total;
  }

  async read(dialogId) {
    await this.execute('mutation($input: MarkReadInput!) { markRead(input: $input) { total } }', { input: { dialogId } });
  }
}

async function execute(query, variables, authorization) {
  const headers = { 'content-type': 'application/json', ...(authorization && { authorization }) };
  const answer = await fetch(`${OTHER}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
  const { data, errors } = await answer.json();
  assert.equal(errors, undefined, JSON.stringify(errors));
  return data;
}

/** Queue of frames that a subscription has received. */
export class Frames {
  #waiting = [];
  #wake = () => {};

  push(frame) {
    this.#waiting.push(frame);
    this.#wake();
  }

  /** Returns the next frame. */
  async next() {
    const late = AbortSignal.timeout(TIMEOUT_MS);
    while (this.#waiting.length === 0) {
      await new Promise((resolve, reject) => {
        this.#wake = resolve;
        late.onabort = () => reject(new Error('timed out waiting for a frame'));
      });
    }
    return this.#waiting.shift();
  }

  /** Discards frames until the total has this value, and returns that frame. Changes may be merged into one frame. */
  async untilTotal(total) {
    for (;;) {
      const frame = await this.next();
      if (frame.total === total) return frame;
      assert(frame.total < total || total === 0, `${inspect(frame)} on the way to ${total}`);
    }
  }
}

/** TCP proxy to the program that can reset its connections, as a network failure does. */
export class ResettableProxy {
  #sockets = new Set();
  #targets = [new URL(PROGRAM), new URL(OTHER)];

  static async open() {
    const proxy = new ResettableProxy();
    proxy.server = net.createServer((near) => {
      const [{ hostname, port }] = proxy.#targets;
      const far = net.connect(port, hostname);
      for (const [one, other] of [[near, far], [far, near]]) {
        proxy.#sockets.add(one);
        one.pipe(other);
        one.on('error', () => {});
        one.on('close', () => proxy.#sockets.delete(one) && other.destroy());
      }
    });
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}/graphql`;
    return proxy;
  }

  /** Directs new connections to the other gateway. */
  switchTarget() {
    this.#targets.reverse();
  }

  /** Resets every connection and directs new ones to the other gateway. */
  cut() {
    this.switchTarget();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Resets every connection and refuses new ones until `listen`, as while the program is away. */
  close() {
    this.cut();
    this.server.close();
  }

  /** Accepts connections again, at the same address. */
  async listen() {
    this.server.listen(new URL(this.url).port, '127.0.0.1');
    await once(this.server, 'listening');
  }
}
