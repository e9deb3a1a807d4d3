import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { SetContextLink } from '@apollo/client/link/context';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { applyFrame, typePolicies } from './counts.mjs';
import { openSocket } from './socket.mjs';

/** Returns a client for queries and mutations over HTTP and subscriptions over one socket. */
export function connect(url, session, socket = openSocket(url, session), cache = new InMemoryCache({ typePolicies })) {
  const bearer = async () => ({ authorization: `Bearer ${await session.token()}` });
  const signed = new SetContextLink(async ({ headers }) => ({ headers: { ...headers, ...(await bearer()) } }));
  const http = ApolloLink.from([signed, new HttpLink({ uri: url })]);
  const isStream = ({ operationType }) => operationType === 'subscription';
  return new ApolloClient({ link: ApolloLink.split(isStream, new GraphQLWsLink(socket), http), cache });
}

/** Keeps the counts of every query live. */
export function followUnread(client) {
  const query = gql`subscription Unread($since: String) {
    unread(since: $since) { kind total stale truncated changed { dialogId unread } }
  }`;
  return client.subscribe({ query }).subscribe(({ data }) => data && applyFrame(data.unread));
}
