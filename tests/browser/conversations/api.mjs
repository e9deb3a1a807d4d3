// A user of the API, as the oracle of the page and as another device.
import { randomUUID } from 'node:crypto';

export const PASSWORD = 'correct horse';
const SESSION = 'accessToken refreshToken expiresAt user { id login name }';

export class Api {
  constructor(url, login) {
    Object.assign(this, { url, login });
  }

  /** Registers a user whose login starts with `name` and whose display name is `shown`. */
  static async register(url, name, shown = name) {
    const api = new Api(url, `${name}-${randomUUID().slice(0, 8)}`);
    const input = { login: api.login, password: PASSWORD, name: shown };
    api.session = (await api.execute(`mutation($input: RegisterInput!) { register(input: $input) { ${SESSION} } }`, { input })).register;
    return api;
  }

  get id() {
    return this.session.user.id;
  }

  async signIn() {
    const input = { login: this.login, password: PASSWORD };
    this.session = undefined;
    this.session = (await this.execute(`mutation($input: LoginInput!) { login(input: $input) { ${SESSION} } }`, { input })).login;
  }

  /** Executes a document and returns its data. Repeats it while the program is away, and signs in again when the session ended. */
  async execute(query, variables) {
    const late = AbortSignal.timeout(30_000);
    for (;;) {
      const problem = await this.#attempt(query, variables);
      if (!problem.code) return problem.data;
      const isAway = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'AWAY', 'RATE_LIMITED'].includes(problem.code);
      if (problem.code === 'UNAUTHENTICATED' && this.session) await this.signIn();
      else if (!isAway || late.aborted) throw Object.assign(new Error(`${query}: ${problem.message}`), problem);
      else await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async #attempt(query, variables) {
    const headers = { 'content-type': 'application/json' };
    if (this.session) headers.authorization = `Bearer ${this.session.accessToken}`;
    try {
      const response = await fetch(`${this.url}/graphql`, { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
      const { data, errors } = await response.json();
      return errors ? { code: errors[0].extensions.code, message: errors[0].message } : { data };
    } catch (error) {
      return { code: 'AWAY', message: error.message };
    }
  }

  async createDialog(others, title) {
    const input = { participantIds: others.map(({ id }) => id), title, clientKey: randomUUID() };
    return (await this.execute('mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }', { input })).createDialog.id;
  }

  async send(dialogId, text = 'hello') {
    const input = { dialogId, text, clientKey: randomUUID() };
    return (await this.execute('mutation($input: SendMessageInput!) { sendMessage(input: $input) { id } }', { input })).sendMessage.id;
  }

  read(dialogId) {
    return this.execute('mutation($input: MarkReadInput!) { markRead(input: $input) { total } }', { input: { dialogId } });
  }

  remove(id) {
    return this.execute('mutation($id: ID!) { deleteMessage(id: $id) { id } }', { id });
  }

  add(dialogId, others) {
    const ids = others.map(({ id }) => id);
    return this.execute('mutation($d: ID!, $ids: [ID!]!) { addParticipants(dialogId: $d, userIds: $ids) { id } }', { d: dialogId, ids });
  }

  leave(dialogId) {
    return this.execute('mutation($d: ID!) { leaveDialog(dialogId: $d) }', { d: dialogId });
  }

  /** Returns the total and the counts that are not 0, by dialog. */
  async unread() {
    const { unread } = await this.execute('{ unread { total dialogs { dialogId unread } } }');
    return { total: unread.total, rows: Object.fromEntries(unread.dialogs.map((row) => [row.dialogId, row.unread])) };
  }

  async dialogs() {
    return (await this.execute('{ dialogs(first: 100) { nodes { id direct } } }')).dialogs.nodes;
  }

  /** Returns the newest messages of a dialog, oldest first. */
  async messages(dialogId) {
    const query = 'query($d: ID!) { dialog(id: $d) { messages(last: 100) { nodes { id seq text senderId status deletedAt } } } }';
    return (await this.execute(query, { d: dialogId })).dialog.messages.nodes;
  }
}
