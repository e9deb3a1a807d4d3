//! A signed-in person who speaks GraphQL over HTTP.

use serde_json::{Value, json};

use crate::place::Place;

#[derive(Clone)]
pub struct Person {
    pub id: String,
    pub token: String,
    pub refresh_token: String,
    pub url: String,
    pub http: reqwest::Client,
}

pub const PASSWORD: &str = "correct horse";

impl Person {
    /// Registers under this login.
    pub async fn register(place: &Place, login: &str) -> Self {
        let http = reqwest::Client::new();
        let document = "mutation($input: RegisterInput!) { register(input: $input) { accessToken refreshToken user { id } } }";
        let body = json!({"query": document, "variables": {"input": {"login": format!("{login}{}", place.suffix), "password": PASSWORD}}});
        let answer = post(&http, &place.url, None, &body).await;
        Self::of(&answer["data"]["register"], &place.url, http, &answer)
    }

    /// Signs in again: another device of the same person.
    pub async fn login(place: &Place, login: &str) -> Self {
        let http = reqwest::Client::new();
        let document =
            "mutation($input: LoginInput!) { login(input: $input) { accessToken refreshToken user { id } } }";
        let body = json!({"query": document, "variables": {"input": {"login": format!("{login}{}", place.suffix), "password": PASSWORD}}});
        let answer = post(&http, &place.url, None, &body).await;
        Self::of(&answer["data"]["login"], &place.url, http, &answer)
    }

    fn of(session: &Value, url: &str, http: reqwest::Client, answer: &Value) -> Self {
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

    /// The same person at a program that was started anew.
    pub fn at(&self, place: &Place) -> Self {
        Self { url: place.url.clone(), http: reqwest::Client::new(), ..self.clone() }
    }

    /// The whole answer.
    pub async fn ask(&self, document: &str, variables: Value) -> Value {
        let body = json!({"query": document, "variables": variables});
        post(&self.http, &self.url, Some(&self.token), &body).await
    }

    /// The answer where nobody may be listening.
    pub async fn try_ask(&self, document: &str, variables: Value) -> Option<Value> {
        let body = json!({"query": document, "variables": variables});
        let request = self.http.post(format!("{}/graphql", self.url)).bearer_auth(&self.token).json(&body);
        request.send().await.ok()?.json().await.ok()
    }

    /// The data of an answer without errors.
    pub async fn data(&self, document: &str, variables: Value) -> Value {
        let mut answer = self.ask(document, variables).await;
        assert!(answer.get("errors").is_none(), "{document}: {answer}");
        answer["data"].take()
    }

    /// The code of the first error; nothing else may have gone wrong.
    pub async fn code(&self, document: &str, variables: Value) -> String {
        let answer = self.ask(document, variables).await;
        let code = answer["errors"][0]["extensions"]["code"].as_str();
        code.unwrap_or_else(|| panic!("{document}: expected an error, got {answer}")).to_owned()
    }

    /// A group with these people and a title.
    pub async fn create_group(&self, others: &[&Self], title: &str) -> String {
        let ids: Vec<&str> = others.iter().map(|person| person.id.as_str()).collect();
        let document = "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }";
        let data = self.data(document, json!({"input": {"participantIds": ids, "title": title}})).await;
        data["createDialog"]["id"].as_str().unwrap().to_owned()
    }

    /// Sends a text and returns the message.
    pub async fn send(&self, dialog: &str, text: &str) -> Value {
        let document = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id seq status } }";
        let mut data = self.data(document, json!({"input": {"dialogId": dialog, "text": text}})).await;
        data["sendMessage"].take()
    }

    /// Reads up to a message, or all; returns total, unread and readSeq of the answer.
    pub async fn read(&self, dialog: &str, up_to: Option<&str>) -> (i64, i64, i64) {
        let document = "mutation($input: MarkReadInput!) { markRead(input: $input) { version total dialog { unread readSeq } } }";
        let data = self.data(document, json!({"input": {"dialogId": dialog, "upTo": up_to}})).await;
        let answer = &data["markRead"];
        let number = |value: &Value| value.as_i64().unwrap();
        (number(&answer["total"]), number(&answer["dialog"]["unread"]), number(&answer["dialog"]["readSeq"]))
    }

    /// The caller's total.
    pub async fn total(&self) -> i64 {
        self.data("{ unread { total } }", json!({})).await["unread"]["total"].as_i64().unwrap()
    }
}

async fn post(http: &reqwest::Client, url: &str, token: Option<&str>, body: &Value) -> Value {
    let mut request = http.post(format!("{url}/graphql")).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap().json().await.unwrap()
}
