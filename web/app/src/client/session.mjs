export const REFRESH = `mutation RefreshSession($token: String!) {
  refreshSession(refreshToken: $token) { accessToken refreshToken expiresAt }
}`;

/** The tokens of a session. Concurrent requests that need a new token share one refresh. */
export class Session {
  constructor(url, tokens) {
    Object.assign(this, { url, tokens });
  }
  get isOld() {
    return Date.parse(this.tokens.expiresAt) < Date.now() + 10_000;
  }
  async token() {
    if (!this.isOld) return this.tokens.accessToken;
    this.refreshing ??= this.refresh().finally(() => (this.refreshing = undefined));
    return (await this.refreshing).accessToken;
  }
  async refresh() {
    const body = JSON.stringify({ query: REFRESH, variables: { token: this.tokens.refreshToken } });
    const headers = { 'content-type': 'application/json' };
    const { data, errors } = await (await fetch(this.url, { method: 'POST', headers, body })).json();
    if (errors) throw Object.assign(new Error(errors[0].message), errors[0].extensions);
    return (this.tokens = data.refreshSession);
  }
}
