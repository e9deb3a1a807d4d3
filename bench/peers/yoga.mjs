// graphql-yoga on Node's HTTP server, on the services of Tidings.

import { createServer } from "node:http";
import { createSchema, createYoga } from "graphql-yoga";
import { context, resolvers, typeDefs } from "./services.mjs";

const [host, port] = process.env.LISTEN.split(":");
const yoga = createYoga({
  schema: createSchema({ typeDefs, resolvers }),
  context: ({ request }) => context(request.headers.get("authorization")),
  logging: false,
});
createServer(yoga).listen(Number(port), host);
