//! Other GraphQL servers on the same services: bare async-graphql on axum, Apollo Server and GraphQL Yoga.
//! Each is one process that ends with its value.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use crate::meter::Metered;

/// Time that a start may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Folder of the servers on Node.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../peers");

/// Kinds of servers to compare with.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// async-graphql and axum, without the rest of the gateway.
    AsyncGraphql,
    /// `@apollo/server`.
    Apollo,
    /// `graphql-yoga`.
    Yoga,
}

impl Kind {
    /// Returns those that are installed: the first is built with the generator, the others need Node and
    /// `npm ci` in bench/peers.
    pub fn installed() -> Vec<Self> {
        let mut kinds = vec![Self::AsyncGraphql];
        if Path::new(NODE).join("node_modules").exists() {
            kinds.extend([Self::Apollo, Self::Yoga]);
        }
        kinds
    }

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::AsyncGraphql => "async-graphql",
            Self::Apollo => "@apollo/server",
            Self::Yoga => "graphql-yoga",
        }
    }

    fn command(self) -> anyhow::Result<Command> {
        let script = match self {
            Self::AsyncGraphql => return Ok(Command::new(beside_this_program("bare-graphql")?)),
            Self::Apollo => "apollo.mjs",
            Self::Yoga => "yoga.mjs",
        };
        let mut node = Command::new("node");
        node.arg(Path::new(NODE).join(script)).env("NODE_ENV", "production");
        Ok(node)
    }
}

fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Running server.
pub struct Peer {
    /// Address.
    pub address: SocketAddr,
    child: Child,
}

impl Peer {
    /// Starts a server with the addresses of the services, and waits until it accepts connections.
    pub async fn start(kind: Kind, services: &[(&str, String)]) -> anyhow::Result<Self> {
        let listen = testkit::free_address();
        let mut command = kind.command()?;
        command.env("LISTEN", &listen).envs(services.iter().map(|(name, url)| (name, url)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().with_context(|| kind.name())?;
        let address: SocketAddr = listen.parse()?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            ensure!(Instant::now() < deadline, "{} does not listen", kind.name());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { address, child })
    }

    /// Returns the process.
    pub fn metered(&self) -> Option<Metered> {
        Some(Metered { name: "peer".to_owned(), process: self.child.id()?, with_children: false })
    }

    /// Kills it and waits for its end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}
