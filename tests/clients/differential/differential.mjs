// Compares what the gateway makes of a request with graphql-js, the reference implementation, over generated requests:
// node differential.mjs --count 2000 --seed 1 --program target/debug/normalize

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { isDeepStrictEqual, parseArgs } from "node:util";
import { buildSchema } from "graphql";
import { Generator, Random, broken } from "./generate.mjs";
import { judge } from "./oracle.mjs";

/** Share of requests that are broken in one way. */
const BROKEN = 0.6;

/** Differences that stay, with the reason. Each is counted in the report. */
const LISTED = [
];

const VERDICTS = { GRAPHQL_PARSE_FAILED: "syntax", GRAPHQL_VALIDATION_FAILED: "invalid", BAD_REQUEST: "operation" };

const { values } = parseArgs({ options: {
    count: { type: "string", default: "2000" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    program: { type: "string" },
    schema: { type: "string", default: new URL("../../../schema.graphql", import.meta.url).pathname },
    show: { type: "string", default: "5" },
} });

const schema = buildSchema(readFileSync(values.schema, "utf8"), { assumeValid: true });
const random = new Random(Number(values.seed));
const count = Number(values.count);
const report = { agreed: 0, limited: 0, listed: new Map(), different: new Map(), verdicts: new Map() };

const program = spawn(values.program, { stdio: ["pipe", "pipe", "inherit"] });
const answers = createInterface({ input: program.stdout })[Symbol.asyncIterator]();
const started = Date.now();
for (let index = 0; index < count; index += 1) {
    const { kind, request: generated } = next();
    const line = JSON.stringify(generated);
    // JSON has no infinity: both sides judge what was sent.
    const request = JSON.parse(line);
    program.stdin.write(`${line}\n`);
    const { value, done } = await answers.next();
    if (done) throw new Error(`the program ended at ${JSON.stringify(request)}`);
    compare(kind, request, judge(schema, request), JSON.parse(value));
}
program.stdin.end();
process.exitCode = print() ? 0 : 1;

/** Returns the next request: most are broken in one way. */
function next() {
    for (;;) {
        const request = new Generator(schema, random).request();
        if (!random.chance(BROKEN)) return { kind: "valid", request };
        const changed = broken(request, random);
        if (changed) return changed;
    }
}

function compare(kind, request, expected, answer) {
    report.verdicts.set(expected.verdict, (report.verdicts.get(expected.verdict) ?? 0) + 1);
    // Documents over a limit are rejected before they are validated.
    if (answer.code === "LIMIT_EXCEEDED") {
        report.limited += 1;
        return;
    }
    const same = expected.verdict === "valid" || expected.verdict === "argument" ? sameOperation(expected, answer) : sameRejection(expected, answer);
    if (same) {
        report.agreed += 1;
        return;
    }
    const listed = LISTED.find(({ applies }) => applies(kind, request, expected, answer));
    const group = listed ? report.listed : report.different;
    const name = listed?.reason ?? `${kind}: ${expected.verdict} by graphql-js, ${answer.code ?? "valid"} here`;
    const entry = group.get(name) ?? { count: 0, example: { request, expected, answer } };
    entry.count += 1;
    group.set(name, entry);
}

function sameRejection(expected, answer) {
    if (!answer.code) return false;
    const verdict = VERDICTS[answer.code];
    return verdict === expected.verdict || (verdict === "invalid" && expected.verdict === "variables");
}

function sameOperation(expected, answer) {
    if (answer.code) return false;
    // An argument that is null only at run time is an error of its field: the executor finds it.
    if (expected.verdict === "argument") return true;
    return answer.operation === expected.operation && sameFields(expected.fields, answer.fields);
}

function sameFields(expected, answered) {
    return expected.length === answered.length && expected.every((field, index) => sameField(field, answered[index]));
}

function sameField(expected, answered) {
    if (expected.key !== answered.key || expected.name !== answered.name) return false;
    if (!isDeepStrictEqual(plain(expected.arguments), plain(answered.arguments))) return false;
    const types = Object.entries(expected.types ?? {});
    if (types.length === 0) return Object.keys(answered.types).length === 0;
    if (types.length === 1 && answered.types.object) return sameFields(types[0][1], answered.types.object);
    return types.length === Object.keys(answered.types).length && types.every(([name, fields]) => answered.types[name] && sameFields(fields, answered.types[name]));
}

/** Drops prototypes, and the sign of zero, which JSON does not keep for whole numbers. */
function plain(value) {
    return JSON.parse(JSON.stringify(value));
}

function print() {
    const different = [...report.different.values()].reduce((sum, { count: some }) => sum + some, 0);
    const listed = [...report.listed.values()].reduce((sum, { count: some }) => sum + some, 0);
    const verdicts = [...report.verdicts].map(([name, some]) => `${some} ${name}`).join(", ");
    console.log(`seed ${values.seed}: ${count} requests in ${((Date.now() - started) / 1000).toFixed(1)} s (${verdicts})`);
    console.log(`${report.agreed} agreed, ${report.limited} over a limit, ${listed} listed differences, ${different} differences`);
    for (const [name, { count: some }] of report.listed) console.log(`listed ${some}: ${name}`);
    let shown = 0;
    for (const [name, { count: some, example }] of report.different) {
        console.log(`DIFFERENCE ${some}: ${name}`);
        if (shown++ < Number(values.show)) console.log(JSON.stringify(example, null, 1));
    }
    return different === 0;
}
