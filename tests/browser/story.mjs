// Both editors in a browser: the story of Playground, and the story of GraphiQL while the first waits for a minute.
//
//     node story.mjs URL [FOLDER]
//
// CHROMIUM is the browser's path. FOLDER receives a screenshot of each editor with a live frame, or of every page when a step
// fails. The program must start with an empty DATA_DIR.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { launch } from './conversations/browser.mjs';
import { graphiqlStory } from './graphiql.mjs';
import { playgroundStory } from './playground.mjs';

const [url, folder] = process.argv.slice(2);
assert(url, 'usage: node story.mjs URL [FOLDER]');
if (folder) await mkdir(folder, { recursive: true });
const html = await (await fetch(`${url}/graphiql`)).text();
assert(html.includes('/assets/'), 'the page at /graphiql is the plain one, without an editor: run `make web` for the build errors');

const browser = await launch();
const context = await browser.newContext({ viewport: { width: 1280, height: 640 } });
const pages = [];

async function open(Kind, name) {
  pages.push(await Kind.open(context, url, name));
  return pages.at(-1);
}

async function photograph(page, name) {
  if (folder) await page.tab.screenshot({ path: join(folder, `${name}.png`) });
}

async function step(description, action) {
  await action();
  console.log(`ok  ${description}`);
}

try {
  const tools = { open, step, photograph, url };
  const afterAMinute = await playgroundStory(tools);
  await graphiqlStory(tools);
  await afterAMinute();
  await step('no page had an error or requested another host', async () => {
    assert.deepEqual(pages.flatMap((page) => page.faults), []);
  });
} catch (failure) {
  for (const page of pages) {
    await photograph(page, `failed-${page.name}`);
    console.error(page.faults.join('\n'));
  }
  throw failure;
} finally {
  await browser.close();
}
