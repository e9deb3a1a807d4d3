// @apollo/server with its standalone HTTP server, on the services of Tidings.

import { ApolloServer } from "@apollo/server";
import { startStandaloneServer } from "@apollo/server/standalone";
import { context, resolvers, typeDefs } from "./services.mjs";

const [host, port] = process.env.LISTEN.split(":");
const server = new ApolloServer({ typeDefs, resolvers });
await startStandaloneServer(server, {
  listen: { host, port: Number(port) },
  context: async ({ req }) => context(req.headers.authorization),
});
