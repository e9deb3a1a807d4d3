//! Writes the pages at `/`, `/graphiql` and `/playground` into `OUT_DIR/pages`, from which the crate embeds
//! them.
//!
//! A folder web/dist that is newer than its sources is copied; a container image is built this way,
//! without Node. Otherwise the pages are built with Node and npm. A failure does not fail the build: the
//! binary then contains a plain page that explains how to build the pages.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Sources of the pages, in web/. A change of any of them rebuilds the pages.
const SOURCES: [&str; 11] = [
    "src",
    "build.mjs",
    "package.json",
    "package-lock.json",
    ".npmrc",
    "app/src",
    "app/src/client",
    "app/index.html",
    "app/vite.config.ts",
    "app/package.json",
    "app/package-lock.json",
];

/// Longest run time of each command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let web = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../web");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target = out.join("pages");
    // Written here because an attribute cannot name OUT_DIR.
    fs::write(out.join("page.rs"), format!("#[derive(Embed)]\n#[folder = {target:?}]\nstruct WebFiles;\n"))?;
    println!("cargo:rerun-if-env-changed=TIDINGS_WEB");
    println!("cargo:rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", web.join(source).display());
    }
    let built = web.join("dist/index.html");
    if built.exists() {
        println!("cargo:rerun-if-changed={}", built.display());
    }

    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    fs::create_dir_all(&target)?;
    if env::var("TIDINGS_WEB").is_ok_and(|value| value == "skip") {
        return Ok(());
    }
    let outcome = if modified(&built) >= newest(&web) {
        copy(&web.join("dist"), &target)
    } else {
        build(&web, &target)
    };
    if let Err(reason) = outcome {
        println!("cargo:warning=the pages for a browser are not built ({reason}); `make web` tries again");
        fs::remove_dir_all(&target)?;
        fs::create_dir_all(&target)?;
    }
    Ok(())
}

fn build(web: &Path, target: &Path) -> Result<(), String> {
    if !is_installed("node") || !is_installed("npm") {
        return Err("node and npm are not installed".into());
    }
    // What the page at / takes only for its checks is omitted.
    let app = web.join("app");
    install(web, &[])?;
    install(&app, &["--omit=dev"])?;
    run(Command::new("node").arg("build.mjs").arg(target).current_dir(web), "the bundler")?;
    let mut vite = Command::new("node");
    vite.args([
        "node_modules/vite/bin/vite.js",
        "build",
        "--logLevel=error",
        "--emptyOutDir=false",
        "--outDir",
    ]);
    run(vite.arg(target).current_dir(app), "the bundler of the page at /")
}

/// Installs the packages of a folder, unless they are installed as its lock file says.
fn install(folder: &Path, options: &[&str]) -> Result<(), String> {
    let installed = folder.join("node_modules/.package-lock.json");
    if modified(&installed) >= modified(&folder.join("package-lock.json")) {
        return Ok(());
    }
    let mut install = Command::new("npm");
    install.args([
        "ci",
        "--ignore-scripts",
        "--prefer-offline",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]);
    // Few and short retries: without network access the build must not wait for long.
    install.args(["--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]);
    run(install.args(options).current_dir(folder), "npm ci")
}

fn is_installed(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Runs a command with its output in a file, because a pipe that is not read would block it. Returns the
/// first line with an error on failure.
fn run(command: &mut Command, name: &str) -> Result<(), String> {
    let log = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?).join("pages.log");
    let started = fs::File::create(&log).and_then(|file| {
        let output = file.try_clone()?;
        command.stdin(Stdio::null()).stdout(output).stderr(file).spawn()
    });
    let ended = started.and_then(|mut child| wait(&mut child)).map_err(|error| format!("{name}: {error}"))?;
    if ended.success() {
        return Ok(());
    }
    let output = fs::read_to_string(&log).unwrap_or_default();
    let line = output.lines().find(|line| line.to_lowercase().contains("error")).unwrap_or("no message");
    Err(format!("{name} failed, {line}; the full output is in {}", log.display()))
}

fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > COMMAND_TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the command timed out and was killed"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let copied =
        fs::create_dir_all(to).and_then(|()| fs::read_dir(from)).and_then(|entries| entries.collect());
    let entries: Vec<fs::DirEntry> = copied.map_err(|error| format!("{}: {error}", from.display()))?;
    for entry in entries {
        let path = entry.path();
        let target = to.join(entry.file_name());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn newest(web: &Path) -> SystemTime {
    let sources = SOURCES.map(|source| web.join(source));
    let inside = sources.iter().flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.path());
    inside.chain(sources.clone()).map(|path| modified(&path)).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Returns the time of a file's last change, the epoch for a missing file.
fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
