// Generator of GraphQL requests for a schema: valid ones, and requests that are broken in one way.

import { getNamedType, getNullableType, isAbstractType, isCompositeType, isEnumType, isInputObjectType, isInterfaceType, isLeafType,
    isListType, isNonNullType, isObjectType } from "graphql";

/** Random number generator with a seed (mulberry32), so that a printed seed repeats a run. */
export class Random {
    #state;

    constructor(seed) {
        this.#state = seed >>> 0;
    }

    next() {
        this.#state = (this.#state + 0x6d2b79f5) >>> 0;
        let mixed = this.#state;
        mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
        mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    }

    below(limit) {
        return Math.floor(this.next() * limit);
    }

    chance(probability) {
        return this.next() < probability;
    }

    pick(list) {
        return list[this.below(list.length)];
    }
}

/** Literals of strings and what they stand for: escapes, surrogate pairs, block strings. */
const STRINGS = ['"a"', '""', '"two words"', '"\\n\\t\\"\\\\\\/"', '"\\u0041"', '"\\ud83d\\ude00"', '"\\u{1F600}"', '"😀"', '"""block"""',
    '"""a\\"""b"""', '"""\n  first\n    second\n\n  """', '"""\n\n   only\n\t\n"""', '"""   a\n  b"""', '""" \\n """', '"# no comment"', '"""\r\n  x\r\n  y\r"""',
    '"é"', '"\\b\\f\\r"', '""""""'];
const IDS = ['"0190a9b0-0000-7000-8000-000000000001"', '"x"', "5", "0", "-7", "123456789012345678"];
const INTEGERS = ["1", "0", "-0", "20", "-3", "2147483647", "-2147483648"];

/** Values of variables by scalar, right ones. */
const VALUES = {
    ID: ["x", "0190a9b0-0000-7000-8000-000000000001", 5, ""],
    Int: [1, 0, -3, 2147483647, 20.0],
    Float: [1.5, 2, -0.25],
    String: ["", "text", "é😀", "\u2028"],
    Boolean: [true, false],
};
/** Values of variables that no scalar of the schema but a custom one accepts in that place. */
const WRONG = [null, {}, [], [[]], "x", 1.5, true, 2147483648, -2147483649, 1e400, { x: 1 }, [null], 9007199254740993];

/** Generates one request with the given source of randomness. */
export class Generator {
    constructor(schema, random) {
        this.schema = schema;
        this.random = random;
    }

    /** Returns a request that is valid in nearly all cases. */
    request() {
        this.fragments = [];
        this.budget = 40;
        const operations = [];
        const count = this.random.chance(0.2) ? 1 + this.random.below(3) : 1;
        for (let index = 0; index < count; index += 1) {
            operations.push(this.operation(count > 1 || this.random.chance(0.3) ? `Op${index}` : undefined));
        }
        const chosen = this.random.pick(operations);
        const parts = [...operations.map((operation) => operation.text), ...this.fragments.map((fragment) => fragment.text)];
        if (this.random.chance(0.3)) parts.reverse();
        const query = parts.join(this.random.pick(["\n", " ", "\n\n# comment\n", " , "]));
        const request = { query, variables: chosen.variables };
        if (count > 1 || (chosen.name && this.random.chance(0.5))) request.operationName = chosen.name;
        return request;
    }

    operation(name) {
        const kind = this.random.pick(["query", "query", "query", "query", "mutation", "subscription"]);
        this.variables = new Map();
        const root = { query: this.schema.getQueryType(), mutation: this.schema.getMutationType(), subscription: this.schema.getSubscriptionType() }[kind];
        const set = kind === "subscription" ? this.subscriptionSet(root) : this.selectionSet(root, 0);
        const declared = [...this.variables.values()].map(({ declaration }) => declaration);
        const variables = {};
        for (const [key, { value }] of this.variables) if (value !== undefined) variables[key] = value;
        if (this.random.chance(0.05)) variables.unknown = 1;
        const head = declared.length ? `(${declared.join(this.random.pick([", ", " "]))})` : "";
        const shorthand = kind === "query" && !name && !declared.length && this.random.chance(0.7);
        return { name, variables, text: shorthand ? set : `${kind}${name ? ` ${name}` : ""}${head} ${set}` };
    }

    subscriptionSet(root) {
        const field = this.random.pick(Object.values(root.getFields()));
        const alias = this.random.chance(0.2) ? "s" : undefined;
        const argumentsText = this.arguments(field.args);
        const one = () => `${alias ? `${alias}: ` : ""}${field.name}${argumentsText} ${this.selectionSet(getNamedType(field.type), 1)}`;
        switch (this.random.below(5)) {
            case 0: return `{ ...on Subscription { ${one()} } }`;
            case 1: return `{ ${one()} ${one()} }`;
            case 2: return `{ ...${this.fragment(root, one)} }`;
            default: return `{ ${one()} }`;
        }
    }

    /** Adds a named fragment on a type and returns its name. */
    fragment(type, body) {
        const name = `F${this.fragments.length}${this.random.below(1000)}`;
        const fragment = { name, type: type.name, text: "" };
        this.fragments.push(fragment);
        fragment.text = `fragment ${name} on ${type.name} { ${body()} }`;
        return name;
    }

    selectionSet(type, depth) {
        return `{ ${this.selections(type, depth)} }`;
    }

    selections(type, depth) {
        const count = 1 + this.random.below(depth > 3 ? 2 : 4);
        const parts = [];
        for (let index = 0; index < count; index += 1) parts.push(this.selection(type, depth));
        if (this.random.chance(0.15)) parts.push(this.random.pick(parts));
        return parts.join(this.random.pick([" ", "\n", ", "]));
    }

    selection(type, depth) {
        const roll = this.random.next();
        this.budget -= 1;
        if (this.budget > 0 && roll < 0.1) return `...${this.random.chance(0.5) ? ` on ${type.name}` : ""}${this.directives()} ${this.selectionSet(type, depth)}`;
        if (this.budget > 0 && roll < 0.18) return `...${this.fragment(type, () => this.selections(type, depth))}${this.directives()}`;
        if (this.budget > 0 && isAbstractType(type) && roll < 0.9) {
            const possible = this.random.pick(this.schema.getPossibleTypes(type));
            return `... on ${possible.name}${this.directives()} ${this.selectionSet(possible, depth)}`;
        }
        if (roll < 0.24 || !isObjectType(type) && !isInterfaceType(type)) return `${this.random.chance(0.3) ? "t: " : ""}__typename${this.directives()}`;
        return this.field(type, depth);
    }

    field(type, depth) {
        const root = type === this.schema.getQueryType();
        let fields = Object.values(type.getFields());
        if (depth > 5 || this.budget < 0) {
            const leaves = fields.filter((field) => isLeafType(getNamedType(field.type)));
            if (!leaves.length) return "__typename";
            fields = leaves;
        }
        if (root && depth === 0 && this.random.chance(0.06)) return this.introspection();
        const field = this.random.pick(fields);
        // An alias that depends on the field and its arguments does not conflict.
        const argumentsText = this.arguments(field.args);
        let alias = "";
        if (argumentsText) alias = `a${hash(field.name + argumentsText)}: `;
        else if (this.random.chance(0.1)) alias = `b_${field.name}: `;
        const named = getNamedType(field.type);
        const below = isCompositeType(named) ? ` ${this.selectionSet(named, depth + 1)}` : "";
        return `${alias}${field.name}${argumentsText}${this.directives()}${below}`;
    }

    introspection() {
        return this.random.pick([
            '__type(name: "Dialog") { name kind fields(includeDeprecated: true) { name args { name defaultValue } type { kind name ofType { name } } } }',
            "__schema { queryType { name } mutationType { name } types { name } directives { name locations } }",
            '__type(name: "Nothing") { name }',
            "__schema { ... on __Schema { queryType { name } } queryType { kind } }",
        ]);
    }

    directives() {
        if (!this.random.chance(0.12)) return "";
        const names = this.random.chance(0.15) ? ["skip", "include"] : [this.random.pick(["skip", "include"])];
        return names.map((name) => ` @${name}(if: ${this.random.chance(0.5) ? this.random.pick(["true", "false"]) : this.variable("Boolean!", true)})`).join("");
    }

    arguments(definitions) {
        const given = [];
        for (const definition of definitions) {
            if (!isNonNullType(definition.type) && this.random.chance(0.6)) continue;
            given.push(`${definition.name}: ${this.value(definition.type, 0)}`);
        }
        if (this.random.chance(0.3)) given.reverse();
        return given.length ? `(${given.join(", ")})` : "";
    }

    /** Returns a value for an input position: a literal or a new variable. */
    value(type, nested) {
        if (this.random.chance(nested ? 0.15 : 0.4)) return this.variable(String(type), isNonNullType(type), type);
        return this.literal(type, nested);
    }

    literal(type, nested, constant = false) {
        if (!isNonNullType(type) && this.random.chance(0.1)) return "null";
        const inner = getNullableType(type);
        const child = (of) => (constant ? this.literal(of, nested + 1, true) : this.value(of, nested + 1));
        if (isListType(inner)) {
            if (this.random.chance(0.2)) return this.literal(inner.ofType, nested + 1, true);
            return `[${Array.from({ length: this.random.below(3) }, () => child(inner.ofType)).join(", ")}]`;
        }
        if (isInputObjectType(inner)) {
            const fields = Object.values(inner.getFields()).filter((field) => isNonNullType(field.type) || this.random.chance(0.4));
            return `{${fields.map((field) => `${field.name}: ${child(field.type)}`).join(", ")}}`;
        }
        if (isEnumType(inner)) return this.random.pick(inner.getValues()).name;
        switch (inner.name) {
            case "Int": return this.random.pick(INTEGERS);
            case "Float": return this.random.pick(["1.5", "2", "-1e3", "1E+2", "0.0", "-0"]);
            case "Boolean": return this.random.pick(["true", "false"]);
            case "ID": return this.random.pick(IDS.concat(STRINGS.slice(0, 3)));
            case "String": return this.random.pick(STRINGS);
            default: return this.random.pick(['{__typename: "User", id: "x"}', '{__typename: "Dialog", id: "y"}']);
        }
    }

    /** Declares a variable for a position of this type and returns its use. */
    variable(typeText, required, type) {
        const same = [...this.variables.entries()].filter(([, variable]) => variable.typeText === typeText);
        if (same.length && this.random.chance(0.4)) return `$${this.random.pick(same)[0]}`;
        const name = `v${this.variables.size}`;
        const strict = !required && this.random.chance(0.3) ? `${typeText}!` : typeText;
        const hasDefault = type && !strict.endsWith("!") && this.random.chance(0.3);
        const declaration = `$${name}: ${strict}${hasDefault ? ` = ${this.literal(type, 0, true)}` : ""}`;
        let value = type ? this.variableValue(type) : this.random.chance(0.5);
        if (!strict.endsWith("!") && this.random.chance(0.3)) value = this.random.chance(0.5) ? undefined : null;
        else if (strict.endsWith("!") && value === null) value = type ? this.variableValue(getNullableType(type), true) : true;
        if (this.random.chance(0.01)) value = this.random.pick(WRONG);
        this.variables.set(name, { typeText: strict, declaration, value });
        return `$${name}`;
    }

    variableValue(type, never) {
        if (!never && !isNonNullType(type) && this.random.chance(0.1)) return null;
        const inner = getNullableType(type);
        if (isListType(inner)) {
            if (this.random.chance(0.15)) return this.variableValue(inner.ofType, true);
            return Array.from({ length: this.random.below(3) }, () => this.variableValue(inner.ofType));
        }
        if (isInputObjectType(inner)) {
            const value = {};
            for (const field of Object.values(inner.getFields())) {
                if (isNonNullType(field.type) || this.random.chance(0.4)) value[field.name] = this.variableValue(field.type);
            }
            return value;
        }
        if (isEnumType(inner)) return this.random.pick(inner.getValues()).name;
        return this.random.pick(VALUES[inner.name] ?? [{ __typename: "User", id: "x" }, { __typename: "Message", id: "z" }]);
    }
}

function hash(text) {
    let value = 7;
    for (const char of text) value = (Math.imul(value, 31) + char.codePointAt(0)) >>> 0;
    return value.toString(36);
}

/** Ways to break a request. Each returns the broken text, or undefined if it does not apply. */
const TEXT_BREAKS = {
    "unknown field": (query) => replaced(query, /\b(id|total|seq|login|nodes|kind)\b/, "nonsense"),
    "unknown argument": (query) => replaced(query, /\((\w+): (?=["$\d{[])/, "(nonsense: 1, $1: "),
    "missing argument": (query) => replaced(query, /(\w)\((id|dialogId|input|search|refreshToken|name): [^(){}]*\)/, "$1"),
    "empty arguments": (query) => replaced(query, /\b(me|id|total|seq)\b/, "$1()"),
    "empty selection": (query) => replaced(query, /\{ [^{}]+ \}/, "{ }"),
    "no selection on an object": (query) => replaced(query, /\b(me|nodes|sender|dialog|user|pageInfo)(\([^()]*\))? \{ [^{}]* \}/, "$1$2"),
    "selection on a leaf": (query) => replaced(query, /\b(id|total|seq|login|kind)\b(?! ?[({:@])/, "$1 { x }"),
    "undefined variable": (query) => replaced(query, /\((\w+): ("[^"\\]*"|\d+)/, "($1: $undefined"),
    "unused variable": (query) => replaced(query, /^(query|mutation|subscription)( \w+)? \{/m, "$1$2($unused: Int) {"),
    "variable of an unknown type": (query) => replaced(query, /\$(\w+): (\[?)\w+/, "$$$1: $2Nonsense"),
    "variable of an output type": (query) => replaced(query, /\$(\w+): (\[?)\w+/, "$$$1: $2Dialog"),
    "variable of another type": (query, random) => replaced(query, /\$(\w+): (\[?)(\w+)/, `$$$1: $2${random.pick(["Int", "String", "ID", "Boolean", "LoginInput", "SendMessageInput", "Float"])}`),
    "nullable variable": (query) => replaced(query, /\$(\w+): (\[?\w+!?\]?)!/, "$$$1: $2"),
    "list variable": (query) => replaced(query, /\$(\w+): (\w+!?)/, "$$$1: [$2]"),
    "null default": (query) => replaced(query, /\$(\w+): (\w+!)/, "$$$1: $2 = null"),
    "default of another type": (query, random) => replaced(query, /(\$\w+: \[?\w+!?\]?!?)(?=[,) ])/, `$1 = ${random.pick(['"x"', "1.5", "{}", "[]", "true", "NAME", "$v0"])}`),
    "default value": (query, random) => replaced(query, /(\$\w+: \[?\w+!?\]?!?)(?=[,) ])/, `$1 = ${random.pick(['"x"', "1", "false", "null"])}`),
    "variable twice": (query) => replaced(query, /\((\$\w+: [\w![\]]+)/, "($1, $1"),
    "argument twice": (query) => replaced(query, /\((\w+: ("[^"\\]*"|\d+|\$\w+))/, "($1, $1"),
    "input field twice": (query) => replaced(query, /\{(\w+: ("[^"\\]*"|\d+|\$\w+))/, "{$1, $1"),
    "unknown input field": (query) => replaced(query, /\{(\w+: ("[^"\\]*"|\d+|\$\w+))/, "{$1, nonsense: 1"),
    "missing input field": (query) => replaced(query, /\{(text|login|dialogId|participantIds): [^,{}]*(, )?/, "{"),
    "literal of another type": (query, random) => replaced(query, /: ("[^"\\]*"|\d+|true|false)(?=[,)\]}])/, `: ${random.pick(["1", "1.5", '"x"', "true", "NAME", "null", "[]", "{}", "[[1]]", '{a: 1}', "2147483648", "-99999999999", "1e3"])}`),
    "broken literal": (query, random) => replaced(query, /: ("[^"\\]*"|\d+|true|false)(?=[,)\]}])/, `: ${random.pick(["01", "1.", ".5", "1e", "-", "0x1", "1a", "00", "-01", '"\\x"', '"\\u12"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u{110000}"', '"\\u{}"', '"\\u{D800}"', '"a\nb"', '"', '"""', '"\u0007"', "$", "1_000", "'x'", "1.e5", "1.5.5", "-0.0", "0e0", '"\\u{000041}"', '"\\u{1F60', "1..2"])}`),
    "unknown fragment": (query) => replaced(query, /\{ /, "{ ...Nonsense "),
    "unused fragment": (query) => `${query} fragment Unused on User { id }`,
    "fragment twice": (query) => withMatch(query, /fragment (\w+) on (\w+) \{/, (match) => `${query} fragment ${match[1]} on ${match[2]} { __typename }`),
    "fragment cycle": (query) => replaced(query, /fragment (\w+) on (\w+) \{ /, "fragment $1 on $2 { ...$1 "),
    "long fragment cycle": (query) => withMatch(query, /fragment (\w+) on (\w+) \{ /, (match) => `${query.replace(match[0], () => `${match[0]}...Cycle `)} fragment Cycle on ${match[2]} { ...${match[1]} }`),
    "fragment on a scalar": (query) => replaced(query, /fragment (\w+) on \w+/, "fragment $1 on String"),
    "fragment on an input": (query) => replaced(query, /\.\.\. on \w+/, "... on LoginInput"),
    "fragment on an unknown type": (query) => replaced(query, /(\.\.\. ?on|fragment \w+ on) \w+/, "$1 Nonsense"),
    "impossible fragment": (query, random) => replaced(query, /\{ /, `{ ... on ${random.pick(["PageInfo", "Query", "_Entity", "Session", "User"])} { __typename } `),
    "fragment named on": (query) => `${query} fragment on on User { id }`,
    "fragment variables": (query) => replaced(query, /fragment (\w+) on/, "fragment $1($x: Int) on"),
    "unknown directive": (query) => replaced(query, /\b(id|__typename)\b(?=[ ,\n])/, "$1 @nonsense"),
    "directive without its argument": (query, random) => replaced(query, /\b(id|__typename)\b(?=[ ,\n])/, `$1 @${random.pick(["skip", "include"])}`),
    "directive with another argument": (query) => replaced(query, /\b(id|__typename)\b(?=[ ,\n])/, "$1 @skip(if: true, unless: false)"),
    "directive with a null": (query) => replaced(query, /\b(id|__typename)\b(?=[ ,\n])/, "$1 @include(if: null)"),
    "directive with a string": (query) => replaced(query, /\b(id|__typename)\b(?=[ ,\n])/, '$1 @include(if: "true")'),
    "directive twice": (query) => replaced(query, /\b(id|__typename)\b(?=[ ,\n])/, "$1 @skip(if: false) @skip(if: false)"),
    "misplaced directive": (query, random) => replaced(query, /^(query|mutation|subscription)( \w+)?(\([^()]*\))? \{/m, `$1$2$3 @${random.pick(["skip(if: true)", "deprecated", "specifiedBy(url: \"x\")", "include(if: true)"])} {`),
    "directive on a fragment definition": (query) => replaced(query, /fragment (\w+) on (\w+)/, "fragment $1 on $2 @skip(if: false)"),
    "unknown directive on a variable": (query) => replaced(query, /(\$\w+: \[?\w+!?\]?!?)(?=[,)])/, "$1 @nonsense"),
    "conflicting fields": (query, random) => replaced(query, /\{ /, `{ ${random.pick(["same: id same: login", "same: me { id } same: user(id: 1) { id }", "same: __typename same: id", "x: dialogs(first: 1) { __typename } x: dialogs(first: 2) { __typename }"])} `),
    "conflict in fragments": (query) => `${query.replace(/\{ /, "{ ...ConflictA ...ConflictB ")} fragment ConflictA on Query { me { same: id } } fragment ConflictB on Query { me { same: login } }`,
    "two anonymous operations": (query) => `${query} { me { id } }`,
    "operation name twice": (query) => withMatch(query, /(query|mutation|subscription) (\w+)/, (match) => `${query} query ${match[2]} { me { id } }`),
    "two root fields": (query) => replaced(query, /^(subscription[^{]*)\{ /m, "$1{ again: unread { total } "),
    "typename in a subscription": (query) => replaced(query, /^(subscription[^{]*)\{ /m, "$1{ __typename "),
    "only typename in a subscription": () => "subscription { __typename }",
    "second root field in a fragment": (query) => withMatch(query, /^subscription[^{]*\{ /m, (match) => `${query.replace(match[0], () => `${match[0]}...Second `)} fragment Second on Subscription { again: unread { total } }`),
    "type definition": (query, random) => `${query} ${random.pick(["type A { b: Int }", "scalar A", "extend type Query { a: Int }", "schema { query: Query }", "directive @a on FIELD", "enum A { B }", "input A { b: Int }"])}`,
    "unknown operation kind": (query) => replaced(query, /^(query|mutation|subscription)/m, "queri"),
    "two operations": (query) => `${query.replace(/^\{/, "query First {")} query Second { me { id } } query Third($n: Int!) { dialogs(first: $n) { nodes { id } } }`,
    "empty variable definitions": (query) => replaced(query, /^(query|mutation|subscription)( \w+)? \{/m, "$1$2() {"),
    "one character less": (query, random) => spliced(query, random.below(query.length), 1, ""),
    "one character more": (query, random) => spliced(query, random.below(query.length), 0, random.pick([..."{}()[]:!$@|=&\"'\\.#-+eE09azAZ_ ,\n\t\r\0\u007f\ufeffé😀?*%<>;~`^"])),
    "two characters changed": (query, random) => spliced(spliced(query, random.below(query.length), 1, ")"), random.below(query.length), 1, "{"),
    "cut off": (query, random) => query.slice(0, random.below(query.length)),
    "empty": (query, random) => random.pick(["", " ", "#", "\ufeff", ",,,", "{", "{}", "query", "fragment A on User { id }", "null", "1", "\"\"", "query { }", "query A", "{ ... }", "{ ...}"]),
    "byte order mark": (query) => `\ufeff${query}`,
    "description": (query) => `"description" ${query.replace(/^\{/, "query {")}`,
    "ignored tokens": (query) => query.replace(/ /g, () => " ,\t\r\n# x\n"),
};

/** Ways to break the variables or the name of a request. */
const REQUEST_BREAKS = {
    "variable of a wrong value": (request, random) => withVariables(request, (variables, key) => ({ ...variables, [key]: random.pick(WRONG) })),
    "variable left out": (request) => withVariables(request, ({ ...variables }, key) => {
        delete variables[key];
        return variables;
    }),
    "variable null": (request) => withVariables(request, (variables, key) => ({ ...variables, [key]: null })),
    "field of a variable": (request, random) => withVariables(request, (variables, key) => {
        if (typeof variables[key] !== "object" || variables[key] === null || Array.isArray(variables[key])) return undefined;
        const value = { ...variables[key] };
        const field = random.pick(Object.keys(value).concat("nonsense"));
        if (random.chance(0.3)) delete value[field];
        else value[field] = random.pick(WRONG);
        return { ...variables, [key]: value };
    }),
    "operation of another name": (request) => ({ ...request, operationName: "Nonsense" }),
    "no operation name": ({ operationName, ...request }) => (operationName ? request : undefined),
};

/** Returns the request, broken in one way, and the name of that way; undefined if the way does not apply. */
export function broken(request, random) {
    const kind = random.pick([...Object.keys(TEXT_BREAKS), ...Object.keys(REQUEST_BREAKS)]);
    if (REQUEST_BREAKS[kind]) {
        const changed = REQUEST_BREAKS[kind](request, random);
        return changed && { kind, request: changed };
    }
    const query = TEXT_BREAKS[kind](request.query, random);
    // A document with half a surrogate pair cannot be sent: it is not UTF-8.
    return query?.isWellFormed() ? { kind, request: { ...request, query } } : undefined;
}

function replaced(text, pattern, by) {
    return pattern.test(text) ? text.replace(pattern, by) : undefined;
}

function withMatch(text, pattern, change) {
    const match = pattern.exec(text);
    return match ? change(match) : undefined;
}

function spliced(text, at, count, inserted) {
    return text.slice(0, at) + inserted + text.slice(at + count);
}

function withVariables(request, change) {
    const keys = Object.keys(request.variables ?? {});
    if (!keys.length) return undefined;
    const variables = change(request.variables, keys[0]);
    return variables && { ...request, variables };
}
