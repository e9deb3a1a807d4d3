//! An authenticated user that sends GraphQL operations over HTTP.

use serde_json::{Value, json};
use testkit::eventually;

use crate::endpoint::Endpoint;

/// A user with one session.
#[derive(Clone)]
pub struct Caller {
    pub id: String,
    pub token: String,
    pub refresh_token: String,
    pub url: String,
    pub http: reqwest::Client,
}

/// Password of every user in the tests.
pub const PASSWORD: &str = "correct horse";

impl Caller {
    /// Registers a user with this login.
    pub async fn register(endpoint: &Endpoint, login: &str) -> Self {
        let http = reqwest::Client::new();
        let document = "mutation($input: RegisterInput!) {
            register(input: $input) { accessToken refreshToken user { id } } }";
        let body = json!({"query": document, "variables": {"input": credentials(endpoint, login)}});
        let answer = post(&http, &endpoint.url, None, &body).await;
        Self::from_session(&answer["data"]["register"], &endpoint.url, http, &answer)
    }

    /// Signs in again: XX.
    pub async fn login(endpoint: &Endpoint, login: &str) -> Self {
        let http = reqwest::Client::new();
        let document =
            "mutation($input: LoginInput!) { login(input: $input) { accessToken refreshToken user { id } } }";
        let body = json!({"query": document, "variables": {"input": credentials(endpoint, login)}});
        let answer = post(&http, &endpoint.url, None, &body).await;
        Self::from_session(&answer["data"]["login"], &endpoint.url, http, &answer)
    }

    /// Signs in again on a device of this name, with a client of this user agent.
    pub async fn login_on(endpoint: &Endpoint, login: &str, device: &str, user_agent: &str) -> Self {
        let http = reqwest::Client::builder().user_agent(user_agent).build().unwrap();
        let document =
            "mutation($input: LoginInput!) { login(input: $input) { accessToken refreshToken user { id } } }";
        let mut input = credentials(endpoint, login);
        input["deviceName"] = json!(device);
        let answer =
            post(&http, &endpoint.url, None, &json!({"query": document, "variables": {"input": input}}))
                .await;
        Self::from_session(&answer["data"]["login"], &endpoint.url, http, &answer)
    }

    /// Returns the id of the caller's session.
    pub async fn session_id(&self) -> String {
        let data = self.data("{ me { sessions { id current } } }", json!({})).await;
        let sessions = data["me"]["sessions"].as_array().unwrap();
        let current = sessions.iter().find(|session| session["current"] == true).unwrap();
        current["id"].as_str().unwrap().to_owned()
    }

    fn from_session(session: &Value, url: &str, http: reqwest::Client, answer: &Value) -> Self {
        let text =
            |value: &Value| value.as_str().unwrap_or_else(|| panic!("no session in {answer}")).to_owned();
        Self {
            id: text(&session["user"]["id"]),
            token: text(&session["accessToken"]),
            refresh_token: text(&session["refreshToken"]),
            url: url.to_owned(),
            http,
        }
    }

    /// Returns the same session with requests going to another gateway, on new connections.
    pub fn at(&self, endpoint: &Endpoint) -> Self {
        Self { url: endpoint.url.clone(), http: reqwest::Client::new(), ..self.clone() }
    }

    /// Executes a document and returns the whole response.
    pub async fn execute(&self, document: &str, variables: Value) -> Value {
        let body = json!({"query": document, "variables": variables});
        post(&self.http, &self.url, Some(&self.token), &body).await
    }

    /// Executes a document; `None` when the gateway does not respond.
    pub async fn try_execute(&self, document: &str, variables: Value) -> Option<Value> {
        let body = json!({"query": document, "variables": variables});
        let request = self.http.post(format!("{}/graphql", self.url)).bearer_auth(&self.token).json(&body);
        request.send().await.ok()?.json().await.ok()
    }

    /// Executes a document and returns its data. Panics at any error.
    pub async fn data(&self, document: &str, variables: Value) -> Value {
        let mut answer = self.execute(document, variables).await;
        assert!(answer.get("errors").is_none(), "{document}: {answer}");
        answer["data"].take()
    }

    /// Executes a document and returns the code of the first error. Panics without one.
    pub async fn error_code(&self, document: &str, variables: Value) -> String {
        let answer = self.execute(document, variables).await;
        let code = answer["errors"][0]["extensions"]["code"].as_str();
        code.unwrap_or_else(|| panic!("{document}: expected an error, got {answer}")).to_owned()
    }

    /// Creates a group with these users and returns its id. Waits until each of them has its counter, so that
    /// no later frame of `unread` announces the dialog.
    pub async fn create_group(&self, others: &[&Self], title: &str) -> String {
        let ids: Vec<&str> = others.iter().map(|caller| caller.id.as_str()).collect();
        let document = "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }";
        let data = self.data(document, json!({"input": {"participantIds": ids, "title": title}})).await;
        let dialog = data["createDialog"]["id"].as_str().unwrap().to_owned();
        for caller in [self].iter().chain(others) {
            caller.wait_until_joined(&dialog).await;
        }
        dialog
    }

    async fn wait_until_joined(&self, dialog: &str) {
        let document = "query($id: ID!) { dialogUnread(dialogId: $id) { unread } }";
        eventually("the counter service knows the participant", || async {
            !self.data(document, json!({"id": dialog})).await["dialogUnread"].is_null()
        })
        .await;
    }

    /// Sends a message and returns it.
    pub async fn send(&self, dialog: &str, text: &str) -> Value {
        let document = "mutation($input: SendMessageInput!) {
            sendMessage(input: $input) { id seq status transactionId } }";
        let mut data = self.data(document, json!({"input": {"dialogId": dialog, "text": text}})).await;
        data["sendMessage"].take()
    }

    /// Marks messages as read up to `up_to`, or all. Returns `total`, `unread` and `readSeq` of the payload.
    pub async fn mark_read(&self, dialog: &str, up_to: Option<&str>) -> (i64, i64, i64) {
        let document = "mutation($input: MarkReadInput!) {
            markRead(input: $input) { version total dialog { unread readSeq } } }";
        let data = self.data(document, json!({"input": {"dialogId": dialog, "upTo": up_to}})).await;
        let answer = &data["markRead"];
        let number = |value: &Value| value.as_i64().unwrap();
        (number(&answer["total"]), number(&answer["dialog"]["unread"]), number(&answer["dialog"]["readSeq"]))
    }

    /// Returns the caller's total of unread messages.
    pub async fn total(&self) -> i64 {
        self.data("{ unread { total } }", json!({})).await["unread"]["total"].as_i64().unwrap()
    }
}

fn credentials(endpoint: &Endpoint, login: &str) -> Value {
    json!({"login": format!("{login}{}", endpoint.login_suffix), "password": PASSWORD})
}

async fn post(http: &reqwest::Client, url: &str, token: Option<&str>, body: &Value) -> Value {
    let mut request = http.post(format!("{url}/graphql")).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap().json().await.unwrap()
}
