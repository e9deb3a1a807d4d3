//! Bare async-graphql on axum, on the services of Tidings: the part of the schema that the benchmark of
//! reads queries, without limits, pushes, timeouts or metrics. It shows what the libraries alone cost, and
//! is not part of the product.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::Context as _;
use async_graphql::{
    Context, EmptyMutation, EmptySubscription, Error, ID, Object, Request, Response, Result, Schema,
    SimpleObject,
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, header::AUTHORIZATION},
    routing::post,
};
use proto::{
    auth::{UsersRequest, auth_client::AuthClient},
    counter::{RowsRequest, UnreadReply, UnreadRequest, counters_client::CountersClient},
    dialog::{Dialog as DialogRow, ListRequest, dialogs_client::DialogsClient},
};
use tonic::{metadata::AsciiMetadataValue, transport::Channel};
use uuid::Uuid;

// The allocator of the program that it is compared with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Channels to the services.
#[derive(Clone)]
struct Services {
    auth: Channel,
    dialog: Channel,
    counter: Channel,
}

/// Authorization of the caller.
struct Bearer(AsciiMetadataValue);

type BareSchema = Schema<Query, EmptyMutation, EmptySubscription>;

struct Query;

struct Unread(UnreadReply);

#[derive(SimpleObject)]
struct DialogUnread {
    dialog_id: ID,
    unread: i64,
}

#[derive(SimpleObject)]
struct DialogConnection {
    nodes: Vec<Dialog>,
    page_info: PageInfo,
}

#[derive(SimpleObject)]
struct PageInfo {
    has_next_page: bool,
}

#[derive(SimpleObject)]
struct Dialog {
    id: ID,
    title: Option<String>,
    direct: bool,
    unread_count: Option<i64>,
    last_activity_at: String,
    participants: UserConnection,
    last_message: Option<Message>,
}

#[derive(SimpleObject)]
struct UserConnection {
    nodes: Vec<User>,
}

#[derive(SimpleObject, Clone)]
struct User {
    id: ID,
    login: String,
    name: String,
}

#[derive(SimpleObject)]
struct Message {
    id: ID,
    seq: i64,
    text: String,
    status: String,
    created_at: String,
    sender: Option<User>,
}

/// Creates a client of a service that sends the caller's token.
macro_rules! client {
    ($client:ident, $channel:ident, $context:expr) => {{
        let token = $context.data::<Bearer>()?.0.clone();
        let channel = $context.data::<Services>()?.$channel.clone();
        $client::with_interceptor(channel, move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", token.clone());
            Ok(request)
        })
    }};
}

#[Object]
impl Query {
    async fn unread(&self, context: &Context<'_>) -> Result<Unread> {
        let mut counters = client!(CountersClient, counter, context);
        Ok(Unread(counters.unread(UnreadRequest { first: 100, at_least: None }).await?.into_inner()))
    }

    /// Loads a page with everything, by one call to each service.
    async fn dialogs(&self, context: &Context<'_>, first: i32) -> Result<DialogConnection> {
        let page = client!(DialogsClient, dialog, context)
            .list(ListRequest { first, after: None, participants_first: None })
            .await?;
        let page = page.into_inner();
        let ids: Vec<_> = page.dialogs.iter().map(|dialog| dialog.id.clone()).collect();
        let mut people: Vec<_> =
            page.dialogs.iter().flat_map(|dialog| dialog.participant_ids.clone()).collect();
        people.sort_unstable();
        people.dedup();
        let mut counters = client!(CountersClient, counter, context);
        let mut auth = client!(AuthClient, auth, context);
        let (rows, users) = tokio::try_join!(
            counters.rows(RowsRequest { dialog_ids: ids, at_least: None }),
            auth.users(UsersRequest { ids: people })
        )?;
        let unread: HashMap<_, _> =
            rows.into_inner().rows.into_iter().map(|row| (id(&row.dialog_id), row.unread)).collect();
        let user = |user: proto::auth::User| {
            let id = id(&user.id);
            (id.clone(), User { id, login: user.login, name: user.name })
        };
        let users = users.into_inner().users.into_iter().map(user).collect();
        let nodes = page.dialogs.into_iter().map(|row| dialog(row, &unread, &users)).collect();
        Ok(DialogConnection { nodes, page_info: PageInfo { has_next_page: page.has_next } })
    }
}

#[Object]
impl Unread {
    async fn total(&self) -> i64 {
        self.0.total
    }

    async fn version(&self) -> String {
        self.0.version.map(|version| format!("{}-{}", version.epoch, version.number)).unwrap_or_default()
    }

    async fn dialogs(&self, first: usize) -> Vec<DialogUnread> {
        let rows = self.0.rows.iter().take(first);
        rows.map(|row| DialogUnread { dialog_id: id(&row.dialog_id), unread: row.unread }).collect()
    }
}

fn dialog(row: DialogRow, unread: &HashMap<ID, i64>, users: &HashMap<ID, User>) -> Dialog {
    let own = id(&row.id);
    let nodes = row.participant_ids.iter().filter_map(|user| users.get(&id(user)).cloned()).collect();
    let message = |message: proto::dialog::Message| Message {
        id: id(&message.id),
        seq: message.seq,
        status: message.status().as_str_name().trim_start_matches("STATUS_").to_owned(),
        created_at: time(message.created_at_us),
        sender: users.get(&id(&message.sender_id)).cloned(),
        text: message.text,
    };
    Dialog {
        unread_count: unread.get(&own).copied(),
        id: own,
        title: row.title,
        direct: row.direct,
        last_activity_at: time(row.last_activity_us),
        participants: UserConnection { nodes },
        last_message: row.last_message.map(message),
    }
}

fn id(bytes: &[u8]) -> ID {
    ID(Uuid::from_slice(bytes).unwrap_or_default().to_string())
}

fn time(us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

async fn execute(
    State(schema): State<BareSchema>,
    headers: HeaderMap,
    Json(request): Json<Request>,
) -> Json<Response> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::parse);
    let Some(Ok(token)) = token else {
        let error = Error::new("no authorization").into_server_error(async_graphql::Pos::default());
        return Json(Response::from_errors(vec![error]));
    };
    Json(schema.execute(request.data(Bearer(token))).await)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let setting = |name: &'static str| std::env::var(name).context(name);
    let connect = |name| anyhow::Ok(Channel::from_shared(setting(name)?)?.connect_lazy());
    let services = Services {
        auth: connect("AUTH_URL")?,
        dialog: connect("DIALOG_URL")?,
        counter: connect("COUNTER_URL")?,
    };
    let schema = Schema::build(Query, EmptyMutation, EmptySubscription).data(services).finish();
    let router = Router::new().route("/graphql", post(execute)).with_state(schema);
    let address: SocketAddr = setting("LISTEN")?.parse()?;
    axum::serve(tokio::net::TcpListener::bind(address).await?, router).await?;
    Ok(())
}
