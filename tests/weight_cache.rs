//! The binary and its cache of packed weights: several servers at once, later starts, and places that cannot be used.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-hd64-gqa4");
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A server that runs, and what it printed.
struct Server {
    child: Child,
    out: Receiver<Vec<u8>>,
    log: Receiver<Vec<u8>>,
    printed: String,
    logged: String,
}

/// What `source` gives, piece by piece.
fn pieces(mut source: impl std::io::Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Server {
    /// Starts a server without an environment but `variables`.
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_openelm-server"));
        command.args(["serve", "--model", MODEL, "--skip-tokenizer-init", "--port", "0", "--kv-cache-memory-bytes", "16MiB"]);
        command.args(arguments).env_clear().envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let (out, log) = (pieces(child.stdout.take().expect("piped")), pieces(child.stderr.take().expect("piped")));
        Self { child, out, log, printed: String::new(), logged: String::new() }
    }

    /// Waits until the banner is printed and the log has `part`.
    fn until(&mut self, part: &str) -> &mut Self {
        let since = Instant::now();
        while !(self.printed.contains("Try it:") && self.logged.contains(part)) {
            assert!(since.elapsed() < LONGEST_WAIT, "no {part:?} in: {}{}", self.printed, self.logged);
            let text = |pieces: &Receiver<Vec<u8>>| String::from_utf8(pieces.try_iter().flatten().collect()).expect("text");
            self.printed += &text(&self.out);
            self.logged += &text(&self.log);
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn servers_that_start_together_write_one_file_and_later_ones_map_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cache = directory.path().join("cache");
    let arguments = ["--weight-cache", cache.to_str().expect("text")];
    let mut servers = [(); 3].map(|()| Server::start(&arguments, &[]));
    let logs = servers.each_mut().map(|server| {
        // One that came last may have found the file of another, whole or in the making.
        server.until("packed weights ");
        ["written, the next start", "mapped", "are not written"]
            .iter()
            .any(|part| server.logged.contains(&format!("packed weights {part}")))
    });
    assert_eq!(logs, [true; 3]);
    // Whoever left the file to another did not wait for it.
    let since = Instant::now();
    while names(&cache).iter().any(|name| name.ends_with(".tmp")) && since.elapsed() < LONGEST_WAIT {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(servers);
    let packed = names(&cache).into_iter().filter(|name| name.ends_with(".packed")).count();
    assert_eq!(packed, 1, "{:?}", names(&cache));
    assert!(names(&cache).iter().all(|name| !name.ends_with(".tmp")), "{:?}", names(&cache));
    let mut later = Server::start(&arguments, &[]);
    later.until("packed weights mapped and verified");
    assert!(!later.logged.contains("WARN") && !later.logged.contains("written"), "{}", later.logged);
    assert!(later.printed.starts_with("openelm-server "), "standard output is the banner alone: {}", later.printed);
}

#[test]
fn the_place_follows_the_environment_and_off_keeps_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path().to_str().expect("text");
    Server::start(&["--weight-cache", "off"], &[("HOME", home)]).until("ready");
    assert!(names(directory.path()).is_empty());
    Server::start(&[], &[("HOME", home)]).until("packed weights written");
    assert!(names(&directory.path().join(".cache/openelm-server")).iter().any(|name| name.ends_with(".packed")));
    let cache = directory.path().join("xdg");
    let variables = [("HOME", home), ("XDG_CACHE_HOME", cache.to_str().expect("text"))];
    Server::start(&[], &variables).until("packed weights written");
    assert!(cache.join("openelm-server").is_dir());
}

#[test]
fn a_place_that_cannot_be_used_is_one_line_of_the_log_and_no_more() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = directory.path().join("open");
    std::fs::create_dir(&open).expect("made");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&open, mode).expect("set");
    let cases = [
        ("auto", None, "neither XDG_CACHE_HOME nor HOME"),
        ("auto", Some(("HOME", "/proc/none")), "/proc/none/.cache/openelm-server cannot hold packed weights"),
        (open.to_str().expect("text"), None, "every user may write to it"),
        ("/proc/self/fd", None, "cannot be written"),
    ];
    for (place, variable, reason) in cases {
        let mut server = Server::start(&["--weight-cache", place], variable.as_slice());
        // The writer's line, where it is the one, may come after the banner.
        server.until("ready").until("WARN");
        let warnings: Vec<&str> = server.logged.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{}", server.logged);
        assert!(warnings[0].contains(reason) && warnings[0].contains("--weight-cache"), "{warnings:?}");
    }
    assert!(names(&open).is_empty());
}
