// Verdict and normal form of a request by graphql-js, the reference implementation.

import { GraphQLError, SchemaMetaFieldDef, TypeMetaFieldDef, TypeNameMetaFieldDef, getNamedType, isAbstractType, isLeafType, parse,
    specifiedRules, validate } from "graphql";
import { collectFields, collectSubfields } from "graphql/execution/collectFields.js";
import { getArgumentValues, getVariableValues } from "graphql/execution/values.js";

/** Judges a request: { verdict, message } or { verdict: "valid", operation, fields }. */
export function judge(schema, { query, operationName, variables }) {
    let document;
    try {
        document = parse(query);
    } catch (error) {
        return { verdict: "syntax", message: error.message };
    }
    const errors = validate(schema, document, specifiedRules, { maxErrors: 1 });
    if (errors.length) return { verdict: "invalid", message: errors[0].message };
    const operations = document.definitions.filter((definition) => definition.kind === "OperationDefinition");
    const chosen = operationName ? operations.filter((operation) => operation.name?.value === operationName) : operations;
    if (chosen.length !== 1) return { verdict: "operation", message: "no such operation" };
    const [operation] = chosen;
    const coerced = getVariableValues(schema, operation.variableDefinitions ?? [], variables ?? {});
    if (coerced.errors) return { verdict: "variables", message: coerced.errors[0].message };
    const fragments = {};
    for (const definition of document.definitions) if (definition.kind === "FragmentDefinition") fragments[definition.name.value] = definition;
    const context = { schema, fragments, variables: coerced.coerced };
    const root = schema.getRootType(operation.operation);
    const collected = collectFields(schema, fragments, context.variables, root, operation.selectionSet);
    try {
        return { verdict: "valid", operation: operation.operation, fields: fieldsOf(context, root, collected) };
    } catch (error) {
        if (error instanceof GraphQLError) return { verdict: "argument", message: error.message };
        throw error;
    }
}

/** Fields of an object after collection, in order: response name, field name, arguments, fields below by type. */
function fieldsOf(context, type, collected) {
    return [...collected].map(([key, nodes]) => {
        const name = nodes[0].name.value;
        const definition = definitionOf(context.schema, type, name);
        const field = { key, name, arguments: argumentsOf(definition, nodes[0], context.variables) };
        const named = getNamedType(definition.type);
        if (isLeafType(named)) return field;
        const types = isAbstractType(named) ? context.schema.getPossibleTypes(named) : [named];
        field.types = {};
        for (const possible of types) {
            const below = collectSubfields(context.schema, context.fragments, context.variables, possible, nodes);
            field.types[possible.name] = fieldsOf(context, possible, below);
        }
        return field;
    });
}

function definitionOf(schema, type, name) {
    if (name === "__typename") return TypeNameMetaFieldDef;
    if (type === schema.getQueryType()) {
        if (name === "__schema") return SchemaMetaFieldDef;
        if (name === "__type") return TypeMetaFieldDef;
    }
    return type.getFields()[name];
}

/** The arguments that the document gives. Those that only a default of the schema sets are left out. */
function argumentsOf(definition, node, variables) {
    const values = getArgumentValues(definition, node, variables);
    const given = new Set();
    for (const argument of node.arguments ?? []) {
        const absent = argument.value.kind === "Variable" && !(argument.value.name.value in variables);
        if (!absent) given.add(argument.name.value);
    }
    return Object.fromEntries(Object.entries(values).filter(([name]) => given.has(name)));
}
