# shellcheck shell=bash
# The story of the README through the balancer, with curl in the engine's network namespace. Sourced, not run.

url=http://127.0.0.1:8080
sent=0

# Executes a document: graphql DOCUMENT [TOKEN [EXTENSIONS]]
graphql() {
    local document=${1//\"/\\\"}
    inside curl -sS --max-time 10 "$url/graphql" -H 'content-type: application/json' ${2:+-H "authorization: Bearer $2"} \
        -d "{\"query\":\"$document\",\"extensions\":{${3:-}}}"
}

# Prints the first value of a field of text in an answer.
field() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d'"' -f4; }

answers() { graphql '{ __typename }' | grep -q '"Query"'; }

# Registers or signs in, and prints the answer: enter register|login LOGIN
enter() { graphql "mutation { $1(input: {login: \"$2\", password: \"correct horse\"}) { accessToken user { id } } }"; }

token_of() { await 60 "login of $1" signed_in "$1" && enter login "$1" | field accessToken; }
signed_in() { enter login "$1" | grep -q accessToken; }

# Registers ann and bob, who subscribes; ann opens a dialog and sends three messages; bob reads them.
tell_story() {
    local bob frames=$work/frames
    bob=$(enter register bob)
    ann=$(enter register ann | field accessToken)
    bob_token=$(echo "$bob" | field accessToken)
    watch_unread "$frames"
    await 20 "the first frame" grep -q '"kind":"SNAPSHOT".*"total":0' "$frames"
    dialog=$(graphql "mutation { createDialog(input: {participantIds: [\"$(echo "$bob" | field id)\"]}) { id } }" "$ann" | field id)
    for _ in 1 2 3; do send; done
    await 20 "the frame of the third message" grep -q '"kind":"CHANGE".*"total":3' "$frames"
    graphql "mutation { markRead(input: {dialogId: \"$dialog\"}) { total } }" "$bob_token" >/dev/null
    await 20 "the frame of the read" grep -q '"kind":"CHANGE".*"total":0' "$frames"
    send
    await 20 "the count" counted 1
}

# Writes what bob's subscription receives in the next two minutes to a file: watch_unread FILE
watch_unread() {
    inside curl -sSN --max-time 120 "$url/graphql" -H 'content-type: application/json' -H 'accept: text/event-stream' \
        -H "authorization: Bearer $bob_token" -d '{"query":"subscription { unread { kind total } }"}' >"$1" 2>/dev/null &
}

# Sends a message as ann, until it is accepted. The client key makes a repeated one the same message.
send() {
    sent=$((sent + 1))
    await 60 "message $sent" send_once
}
send_once() { graphql "$(send_document)" "$ann" | grep -q "\"seq\":$sent}"; }
send_document() {
    echo "mutation { sendMessage(input: {dialogId: \"$dialog\", text: \"hello\", clientKey: \"$sent\"}) { seq } }"
}

# Succeeds if bob has this number of unread messages.
counted() { graphql '{ unread { total } }' "$bob_token" | grep -q "\"total\":$1}"; }

# Asserts that everything that was sent is stored, committed and counted. Bob has read the first three.
assert_data() {
    ann=$(token_of ann)
    bob_token=$(token_of bob)
    await 60 "the count of $((sent - 3)) messages" counted $((sent - 3))
    await 30 "$sent committed messages" committed
}
committed() {
    local answer
    answer=$(graphql "{ dialog(id: \"$dialog\") { messages(first: 100) { edges { node { seq status } } } } }" "$ann")
    [ "$(grep -o '"status":"COMMITTED"' <<<"$answer" | wc -l)" -eq "$sent" ]
}
