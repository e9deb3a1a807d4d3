import { Session } from './session.mjs';

export const KEY = 'tidings.session';

/** A session that all tabs of a browser share: one of them refreshes the tokens, the others read the new ones. */
export class SharedSession extends Session {
  get tokens() {
    return JSON.parse(localStorage.getItem(KEY));
  }
  set tokens(tokens) {
    localStorage.setItem(KEY, JSON.stringify({ ...this.tokens, ...tokens }));
  }
  refresh() {
    const refreshOnce = async () => {
      if (!this.isOld) return this.tokens;
      const tokens = await super.refresh();
      // Another tab may be another process, which sees the new tokens a moment later.
      await new Promise((resolve) => setTimeout(resolve, 100));
      return tokens;
    };
    // Browsers have locks on https and on loopback addresses only.
    return navigator.locks ? navigator.locks.request(KEY, refreshOnce) : refreshOnce();
  }
}
