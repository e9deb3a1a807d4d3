// Clients of the services, the part of Tidings' schema that the benchmark of reads queries, and its resolvers. The resolvers
// batch with DataLoader, as an application on these services would.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import DataLoader from "dataloader";

export const typeDefs = `
  type Query {
    unread: Unread
    dialogs(first: Int = 20): DialogConnection
  }
  type Unread { total: Int!, version: String!, dialogs(first: Int = 100): [DialogUnread!]! }
  type DialogUnread { dialogId: ID!, unread: Int! }
  type DialogConnection { nodes: [Dialog!]!, pageInfo: PageInfo! }
  type PageInfo { hasNextPage: Boolean! }
  type Dialog {
    id: ID!
    title: String
    direct: Boolean!
    unreadCount: Int
    lastActivityAt: String!
    participants(first: Int = 20): UserConnection
    lastMessage: Message
  }
  type UserConnection { nodes: [User!]! }
  type User { id: ID!, login: String!, name: String! }
  enum MessageStatus { PENDING COMMITTED FAILED }
  type Message { id: ID!, seq: Int!, text: String!, status: MessageStatus!, createdAt: String!, sender: User }
`;

const folder = fileURLToPath(new URL("../../proto/proto", import.meta.url));
const names = ["auth", "counter", "dialog"];
const files = names.map((name) => `tidings/${name}.proto`);
const packages = grpc.loadPackageDefinition(loadSync(files, { includeDirs: [folder], longs: Number, enums: String, defaults: true })).tidings;

function connect(Service, url) {
  const client = new Service(url.replace("http://", ""), grpc.credentials.createInsecure());
  return (method, request, metadata) =>
    new Promise((resolve, reject) => {
      client[method](request, metadata, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
}

const auth = connect(packages.auth.Auth, process.env.AUTH_URL);
const dialogs = connect(packages.dialog.Dialogs, process.env.DIALOG_URL);
const counters = connect(packages.counter.Counters, process.env.COUNTER_URL);

function uuid(bytes) {
  const text = bytes.toString("hex");
  return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${text.slice(20)}`;
}

// RFC 3339 with six digits of the second.
function time(us) {
  const text = new Date(Math.floor(us / 1000)).toISOString();
  return `${text.slice(0, -1)}${String(us % 1000).padStart(3, "0")}Z`;
}

// State of one operation: the caller's token, and loaders.
export function context(authorization) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", authorization ?? "");
  const byHex = (rows, id) => new Map(rows.map((row) => [row[id].toString("hex"), row]));
  const loader = (load) => new DataLoader(load, { cacheKeyFn: (id) => id.toString("hex") });
  return {
    metadata,
    users: loader(async (ids) => {
      const found = byHex((await auth("Users", { ids }, metadata)).users, "id");
      return ids.map((id) => found.get(id.toString("hex")) ?? null);
    }),
    rows: loader(async (ids) => {
      const found = byHex((await counters("Rows", { dialogIds: ids }, metadata)).rows, "dialogId");
      return ids.map((id) => found.get(id.toString("hex")) ?? null);
    }),
  };
}

export const resolvers = {
  Query: {
    unread: (_, __, { metadata }) => counters("Unread", { first: 100 }, metadata),
    dialogs: (_, { first }, { metadata }) => dialogs("List", { first }, metadata),
  },
  Unread: {
    version: ({ version }) => `${version.epoch}-${version.number}`,
    dialogs: ({ rows }, { first }) => rows.slice(0, first),
  },
  DialogUnread: { dialogId: ({ dialogId }) => uuid(dialogId) },
  DialogConnection: {
    nodes: (page) => page.dialogs,
    pageInfo: ({ hasNext }) => ({ hasNextPage: hasNext }),
  },
  Dialog: {
    id: ({ id }) => uuid(id),
    title: ({ title }) => title || null,
    unreadCount: async ({ id }, _, { rows }) => (await rows.load(id))?.unread ?? null,
    lastActivityAt: ({ lastActivityUs }) => time(lastActivityUs),
    participants: ({ participantIds }, { first }, { users }) => ({ nodes: users.loadMany(participantIds.slice(0, first)) }),
  },
  User: { id: ({ id }) => uuid(id) },
  Message: {
    id: ({ id }) => uuid(id),
    status: ({ status }) => status.replace("STATUS_", ""),
    createdAt: ({ createdAtUs }) => time(createdAtUs),
    sender: ({ senderId }, _, { users }) => users.load(senderId),
  },
};
