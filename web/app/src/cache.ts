// Rules of Apollo's cache: how pages are joined, and that an answer which was overtaken by a frame undoes nothing.
import type { ApolloCache, FieldFunctionOptions, Reference, StoreObject, TypePolicies } from '@apollo/client';
import type { Modifier } from '@apollo/client/cache';
import { typePolicies as countsFromFrames } from './client/counts.mjs';
import {
  DialogPartsFragmentDoc, MessagePartsFragmentDoc, type DialogPartsFragment, type MessagePartsFragment,
} from './generated';

/** A connection in the cache. */
interface Page extends StoreObject {
  nodes: Reference[];
  pageInfo: StoreObject;
}
type Read = FieldFunctionOptions['readField'];

const seqOf = (message: Reference, readField: Read) => readField<number>('seq', message) ?? 0;

/** Joins the messages of two pages, oldest first. */
function join(a: readonly Reference[], b: readonly Reference[], readField: Read): Reference[] {
  const bySeq = new Map([...a, ...b].map((message) => [seqOf(message, readField), message]));
  return [...bySeq].sort(([x], [y]) => x - y).map(([, message]) => message);
}

function mergeHistory(existing: Page | undefined, incoming: Page, { args, readField }: FieldFunctionOptions): Page {
  if (!existing?.nodes.length) return incoming;
  const older = args?.before != null;
  const last = existing.nodes.at(-1)!;
  const first = incoming.nodes[0];
  // A newest page that does not reach back to the known ones replaces them: there must be no gap.
  if (!older && first && seqOf(first, readField) > seqOf(last, readField) + 1) return incoming;
  return { nodes: join(existing.nodes, incoming.nodes, readField), pageInfo: older ? incoming.pageInfo : existing.pageInfo };
}

/** Keeps the newer of two last messages. */
function newer(existing: Reference | null | undefined, incoming: Reference | null, { readField }: FieldFunctionOptions) {
  return existing && (!incoming || seqOf(existing, readField) > seqOf(incoming, readField)) ? existing : incoming;
}

function mergeList(existing: Page | undefined, incoming: Page, { args }: FieldFunctionOptions): Page {
  if (!existing || args?.after == null) return incoming;
  const known = new Set(existing.nodes.map(({ __ref }) => __ref));
  return { nodes: [...existing.nodes, ...incoming.nodes.filter(({ __ref }) => !known.has(__ref))], pageInfo: incoming.pageInfo };
}

/** Sorts the list by activity, newest first. */
function readList(existing: Page | undefined, { readField }: FieldFunctionOptions): Page | undefined {
  const activity = (dialog: Reference) => readField<string>('lastActivityAt', dialog) ?? '';
  return existing && { ...existing, nodes: [...existing.nodes].sort((a, b) => activity(b).localeCompare(activity(a))) };
}

export const policies: TypePolicies = {
  ...countsFromFrames,
  Query: { fields: { dialogs: { keyArgs: false, merge: mergeList, read: readList } } },
  Dialog: {
    fields: {
      ...countsFromFrames.Dialog.fields,
      messages: { keyArgs: false, merge: mergeHistory },
      lastMessage: { merge: newer },
      lastActivityAt: { merge: (existing: string | undefined, incoming: string) => (existing! > incoming ? existing : incoming) },
    },
  },
  // The state of a message only goes forward.
  Message: {
    fields: {
      status: { merge: (existing, incoming) => (existing === undefined || existing === 'PENDING' ? incoming : existing) },
      deletedAt: { merge: (existing, incoming) => existing ?? incoming },
      text: { read: (text, { readField }) => (readField('deletedAt') ? '' : text) },
    },
  },
};

/** Changes a field that holds a page, if it is loaded. */
const changePage = (change: (nodes: readonly Reference[], read: Read) => Reference[]): Modifier<unknown> => {
  return (page, { readField }) => ({ ...(page as Page), nodes: change((page as Page).nodes, readField) });
};

/** Adds a message to the loaded history of its dialog, and to the list. */
export function addMessage(cache: ApolloCache, message: MessagePartsFragment) {
  const ref = cache.writeFragment({ fragment: MessagePartsFragmentDoc, fragmentName: 'MessageParts', data: message })!;
  cache.modify({
    id: cache.identify({ __typename: 'Dialog', id: message.dialogId }),
    fields: {
      messages: changePage((nodes, read) => join(nodes, [ref], read)),
      lastMessage: (last, { readField }) => (last && seqOf(last as Reference, readField) > message.seq ? last : ref),
      lastActivityAt: (at: string) => (at > message.createdAt ? at : message.createdAt),
    },
  });
}

/** Forgets the loaded history of a dialog. */
export function forgetHistory(cache: ApolloCache, dialogId: string) {
  cache.evict({ id: cache.identify({ __typename: 'Dialog', id: dialogId }), fieldName: 'messages' });
}

/** Puts a dialog into the list. */
export function addDialog(cache: ApolloCache, dialog: DialogPartsFragment) {
  const ref = cache.writeFragment({ fragment: DialogPartsFragmentDoc, fragmentName: 'DialogParts', data: dialog })!;
  const isKnown = (nodes: readonly Reference[]) => nodes.some(({ __ref }) => __ref === ref.__ref);
  cache.modify({ fields: { dialogs: changePage((nodes) => (isKnown(nodes) ? [...nodes] : [ref, ...nodes])) } });
}

/** Takes a dialog out of the list. */
export function removeDialog(cache: ApolloCache, dialogId: string) {
  const id = cache.identify({ __typename: 'Dialog', id: dialogId });
  cache.modify({ fields: { dialogs: changePage((nodes) => nodes.filter(({ __ref }) => __ref !== id)) } });
  forgetHistory(cache, dialogId);
}
