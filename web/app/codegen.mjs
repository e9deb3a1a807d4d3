// Writes typed documents: `npm run generate`.
export default {
  schema: '../../schema.graphql',
  documents: 'src/documents.graphql',
  generates: {
    'src/generated.ts': {
      plugins: ['typescript-operations', 'typed-document-node'],
      config: {
        scalars: { DateTime: 'string', ID: 'string' },
        documentMode: 'documentNode',
        useTypeImports: true,
        enumsAsTypes: true,
        dedupeFragments: true,
        nonOptionalTypename: true,
        skipTypeNameForRoot: true,
      },
    },
  },
};
