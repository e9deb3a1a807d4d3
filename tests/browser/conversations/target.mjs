// The program under test: one process with a temporary data folder, or the stack of which STACK_DIR is the folder.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const UP = new URL('../../../deploy/stack/up.sh', import.meta.url).pathname;

/** Returns a free port. */
export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

async function answers(url) {
  for (let attempt = 0; attempt < 300; attempt += 1) {
    if (await fetch(`${url}/readyz`).then((answer) => answer.ok, () => false)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${url} is not ready`);
}

/** One process, which is killed and started again on the same port and data. */
class Process {
  static async start(environment = {}) {
    const port = await freePort();
    const process = Object.assign(new Process(), { url: `http://127.0.0.1:${port}`, port, environment });
    process.folder = mkdtempSync(join(tmpdir(), 'tidings-page.'));
    await process.#run();
    return process;
  }

  async #run() {
    const env = {
      PATH: process.env.PATH, LISTEN: `127.0.0.1:${this.port}`, OPS_LISTEN: '127.0.0.1:0', DATA_DIR: join(this.folder, 'data'),
      RATE_LIMIT_REQUESTS: '0', RATE_LIMIT_SIGN_IN: '0', ...this.environment,
    };
    this.child = spawn(process.env.TIDINGS, [], { env, stdio: ['ignore', 'ignore', openSync(join(this.folder, 'log'), 'a')] });
    this.ended = new Promise((resolve) => this.child.once('exit', resolve));
    await answers(this.url);
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  async restart() {
    await this.kill();
    await this.#run();
  }

  async stop() {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The gateways of a stack behind its balancer, which are killed in turn. */
class Stack {
  #turn = 0;
  url = process.env.TIDINGS_URL;

  async restart() {
    const gateway = ['gateway1', 'gateway2'][(this.#turn += 1) % 2];
    process.kill(Number(readFileSync(`${process.env.STACK_DIR}/${gateway}.pid`, 'utf8')), 'SIGKILL');
    execFileSync(UP, { stdio: ['ignore', 'ignore', 'pipe'] });
  }

  async stop() {}
}

/** Starts the program, with further settings, or takes the stack that runs. */
export const startTarget = (environment) => (process.env.STACK_DIR ? new Stack() : Process.start(environment));
