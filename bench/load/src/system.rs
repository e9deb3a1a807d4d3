//! The system under test: a program, started as one process on SQLite or as one process for each role on
//! the engines, with settings of production except for the rate limits, which are off. Every start has
//! empty databases. The processes end with the value.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use access::SigningKeys;
use anyhow::{Context, bail, ensure};
use db::Db;
use rustix::process::{Pid, Signal, kill_process};
use testkit::free_address;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    connection::get,
    engines::Engines,
    meter::{Metered, Reading},
    proc, store,
};

/// Time that a start may take, and a stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Roles of a system on the engines. The digit distinguishes the gateways.
const ROLES: [&str; 5] = ["auth", "dialog", "counter", "gateway1", "gateway2"];

/// Kinds of deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// `tidings serve` on SQLite.
    Sqlite,
    /// A process for each role and two gateways, on PostgreSQL, Kafka and Redis.
    Engines,
}

impl Kind {
    /// Returns the name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Engines => "engines",
        }
    }

    /// Returns the name in headings.
    pub fn title(self) -> &'static str {
        match self {
            Self::Sqlite => "one process on SQLite",
            Self::Engines => "five processes on PostgreSQL, Kafka and Redis",
        }
    }
}

type Settings = BTreeMap<&'static str, String>;

/// A running system.
pub struct System {
    program: PathBuf,
    folder: PathBuf,
    settings: BTreeMap<&'static str, Settings>,
    running: BTreeMap<&'static str, Child>,
    engines: Option<Engines>,
    keys: SigningKeys,
}

impl System {
    /// Starts a program in an emptied folder with these settings besides the usual ones, and waits until it
    /// is ready.
    pub async fn start(
        kind: Kind,
        program: &Path,
        folder: &Path,
        extra: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = folder.join(kind.name());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let mut common = Settings::from([
            ("DATA_DIR", folder.join("private").display().to_string()),
            ("SERVICE_TOKEN_FILE", folder.join("private/service-token").display().to_string()),
            ("SIGNING_KEY_FILE", folder.join("private/signing-key.pem").display().to_string()),
            ("LOG_FORMAT", "json".to_owned()),
            ("RATE_LIMIT_REQUESTS", "0".to_owned()),
            ("RATE_LIMIT_SIGN_IN", "0".to_owned()),
            ("MAX_ANONYMOUS_SOCKETS", "100000".to_owned()),
            ("DRAIN_WINDOW", "1s".to_owned()),
        ]);
        common.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
        run_once(program, "keygen", &common).await?;
        let keys = SigningKeys::load(Path::new(&common["SIGNING_KEY_FILE"]))?;
        let engines = match kind {
            Kind::Sqlite => None,
            Kind::Engines => Some(Engines::from_environment().await?),
        };
        let settings = match &engines {
            None => one_process(common),
            Some(engines) => {
                engines.clear().await?;
                roles(common, engines, program).await?
            }
        };
        let program = program.to_owned();
        let running = BTreeMap::new();
        let mut system = Self { program, folder, settings, running, engines, keys };
        system.start_all()?;
        system.wait_until_ready().await?;
        Ok(system)
    }

    /// Starts every process.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        let names: Vec<&'static str> = self.settings.keys().copied().collect();
        names.into_iter().try_for_each(|name| self.start_process(name))
    }

    /// Returns the addresses of the gateways: one or two.
    pub fn gateways(&self) -> Vec<SocketAddr> {
        let gateways = self.settings.iter().filter(|(name, _)| is_gateway(name));
        gateways.map(|(_, settings)| address(&settings["LISTEN"])).collect()
    }

    /// Returns the address of a gateway; the last one stands for all that do not exist.
    pub fn gateway(&self, index: usize) -> SocketAddr {
        let gateways = self.gateways();
        gateways[index.min(gateways.len() - 1)]
    }

    /// Returns the keys that sign access tokens.
    pub fn keys(&self) -> &SigningKeys {
        &self.keys
    }

    /// Opens the database of a service. It works while the system is stopped too.
    pub async fn database(&self, role: &str, connections_max: usize) -> anyhow::Result<Db> {
        Ok(match &self.engines {
            None => Db::open_file(&self.folder.join(format!("private/{role}.db"))).await?,
            Some(engines) => {
                Db::open(&engines.database(&format!("bench_{role}")), u32::try_from(connections_max)?).await?
            }
        })
    }

    /// Empties the counter's cache, if it is in Redis.
    pub async fn clear_cache(&self) -> anyhow::Result<()> {
        match &self.engines {
            None => Ok(()),
            Some(engines) => engines.clear_cache().await,
        }
    }

    /// Returns the processes of the system and its engines.
    pub fn metered(&self) -> anyhow::Result<Vec<Metered>> {
        let own = self.running.iter().filter_map(|(name, child)| {
            Some(Metered { name: (*name).to_owned(), process: child.id()?, with_children: false })
        });
        let engines = self.engines.as_ref().map(Engines::metered).transpose()?.unwrap_or_default();
        Ok(own.chain(engines).collect())
    }

    /// Returns the settings that name the addresses of the services; none in one process.
    pub fn service_urls(&self) -> Vec<(&'static str, String)> {
        let gateway = self.settings.get("gateway1");
        let urls = ["AUTH_URL", "DIALOG_URL", "COUNTER_URL"].into_iter();
        urls.filter_map(|name| Some((name, gateway?.get(name)?.clone()))).collect()
    }

    /// Takes a reading of all processes.
    pub async fn reading(&self) -> anyhow::Result<Reading> {
        self.reading_with(&[]).await
    }

    /// Takes a reading of these processes and those of the system.
    pub async fn reading_with(&self, others: &[Metered]) -> anyhow::Result<Reading> {
        let statements = match &self.engines {
            Some(engines) => engines.statements().await,
            None => None,
        };
        Reading::take(&[others, &self.metered()?].concat(), statements)
    }

    /// Returns the resident memory of each process of the program, in kB.
    pub fn resident_kb(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let running = self.running.iter().filter_map(|(name, child)| Some((name, child.id()?)));
        running.map(|(name, process)| Ok(((*name).to_owned(), proc::resident_kb(process)?))).collect()
    }

    /// Starts a process that does not run. Its log is appended to a file in the folder.
    pub fn start_process(&mut self, name: &'static str) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log(name))?;
        let mut command = Command::new(&self.program);
        command.arg(name.trim_end_matches(['1', '2'])).env_clear().envs(&self.settings[name]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| self.program.display().to_string())?;
        self.running.insert(name, child);
        Ok(())
    }

    /// Stops a process with SIGTERM and waits for its end.
    pub async fn stop_process(&mut self, name: &str) -> anyhow::Result<()> {
        let mut child = self.running.remove(name).context("a process that runs")?;
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM)?;
        }
        let status =
            timeout(PATIENCE, child.wait()).await.with_context(|| format!("{name} did not stop"))??;
        ensure!(status.success(), "{name} exited with {status}");
        Ok(())
    }

    /// Stops every process.
    pub async fn stop_all(&mut self) -> anyhow::Result<()> {
        // The gateways first: they need the others to end their calls.
        let names: Vec<&'static str> = self.running.keys().copied().collect();
        for name in names.into_iter().rev() {
            self.stop_process(name).await?;
        }
        Ok(())
    }

    /// Waits until every process says that it is ready.
    pub async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let names: Vec<&'static str> = self.running.keys().copied().collect();
        for name in names {
            let address = address(&self.settings[name]["OPS_LISTEN"]);
            while !get(address, "/readyz").await.is_ok_and(|status| status == 200) {
                let ended = self.running.get_mut(name).map(Child::try_wait).transpose()?.flatten();
                if ended.is_some() || Instant::now() > deadline {
                    bail!("{name} is not ready; its log is {}", self.log(name).display());
                }
                sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

fn is_gateway(name: &str) -> bool {
    name == "serve" || name.starts_with("gateway")
}

/// Returns the settings of one process.
fn one_process(mut settings: Settings) -> BTreeMap<&'static str, Settings> {
    settings.insert("LISTEN", free_address());
    settings.insert("OPS_LISTEN", free_address());
    BTreeMap::from([("serve", settings)])
}

/// Migrates the databases, creates the topics, and returns the settings of every role.
async fn roles(
    mut common: Settings,
    engines: &Engines,
    program: &Path,
) -> anyhow::Result<BTreeMap<&'static str, Settings>> {
    common.insert("KAFKA_URL", engines.kafka.clone());
    let mut migrate = common.clone();
    for (setting, database) in [
        ("AUTH_DATABASE_URL", "bench_auth"),
        ("DIALOG_DATABASE_URL", "bench_dialog"),
        ("COUNTER_DATABASE_URL", "bench_counter"),
    ] {
        migrate.insert(setting, engines.database(database));
    }
    run_once(program, "migrate", &migrate).await?;
    let listen: Vec<String> = ROLES.map(|_| free_address()).to_vec();
    let mut all = BTreeMap::new();
    for (role, own) in ROLES.into_iter().zip(&listen) {
        let mut settings = common.clone();
        settings.insert("INSTANCE", role.to_owned());
        settings.insert("LISTEN", own.clone());
        settings.insert("OPS_LISTEN", free_address());
        for (setting, peer) in ["AUTH_URL", "DIALOG_URL", "COUNTER_URL"].into_iter().zip(&listen) {
            settings.insert(setting, format!("http://{peer}"));
        }
        if let Some((_, database)) = store::DATABASES.into_iter().find(|(of, _)| *of == role) {
            settings.insert("DATABASE_URL", engines.database(database));
        }
        if role == "counter" || is_gateway(role) {
            settings.insert("REDIS_URL", engines.redis.clone());
        }
        all.insert(role, settings);
    }
    Ok(all)
}

async fn run_once(program: &Path, command: &str, settings: &Settings) -> anyhow::Result<()> {
    let run = Command::new(program).arg(command).env_clear().envs(settings).output();
    let output = run.await.with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address that was found above")
}
