// A minimal second subgraph: mottos of users, and pinned dialogs.
import { buildSchema, graphql } from 'graphql';

const TYPES = `
  type User @key(fields: "id") { id: ID! motto: String }
  type Dialog @key(fields: "id", resolvable: false) { id: ID! }
  type PageInfo @shareable { hasNextPage: Boolean! }
  type Query { pinned: [Dialog!]! }
`;

/** SDL of the subgraph. */
export const PINS = `
  extend schema @link(url: "https://specs.apollo.dev/federation/v2.5", import: ["@key", "@shareable"])
  ${TYPES}
`;

const SCHEMA = buildSchema(`
  directive @key(fields: String!, resolvable: Boolean) on OBJECT
  directive @shareable on OBJECT
  scalar _Any
  union _Entity = User
  extend type Query { _entities(representations: [_Any!]!): [_Entity]! }
  ${TYPES}
`);

/** Returns a request listener with these mottos by user id, and these pinned dialogs. */
export function pins(mottos, dialogs) {
  const rootValue = {
    pinned: dialogs.map((id) => ({ id })),
    _entities: ({ representations }) => representations.map(({ __typename, id }) => ({ __typename, id, motto: mottos[id] })),
  };
  return async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { query, variables } = JSON.parse(Buffer.concat(chunks));
    const answer = await graphql({ schema: SCHEMA, source: query, rootValue, variableValues: variables });
    response.setHeader('content-type', 'application/json').end(JSON.stringify(answer));
  };
}
