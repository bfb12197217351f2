//! A store, a client that is quick to give up, an observer that remembers.
#![allow(dead_code)] // every test file uses its part

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use robot_env_diag::{Error, Result};
use robot_env_layer::Ownership;
use robot_env_oci::{ChainId, Reference};
use robot_env_registry::{Client, ClientOptions, Retry, TimeOuts};
use robot_env_store::{OverlayXattr, Store, StoreOptions};
use robot_env_testkit::registry::TestRegistry;
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_transfer::{Amount, Observer, PullOptions, Pulled, pull};

pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        time_outs: TimeOuts {
            idle: Duration::from_secs(5),
            mirror_connect: Duration::from_secs(1),
            mirror_answer: Duration::from_secs(1),
            ..TimeOuts::default()
        },
        retry: Retry {
            attempts: 3,
            first_pause: Duration::from_millis(10),
            longest_wait: Duration::from_secs(3),
        },
        ..ClientOptions::default()
    }
}

/// A store for tests; as root its layers have what real ones have.
pub(crate) fn open(root: &Path) -> Store {
    let overlay_xattr = if is_root() { OverlayXattr::Trusted } else { OverlayXattr::User };
    Store::open(&StoreOptions { root: root.to_owned(), overlay_xattr, create: true }).unwrap()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn ownership() -> Ownership {
    if is_root() { Ownership::Keep } else { Ownership::SingleId }
}

pub(crate) fn pull_options() -> PullOptions {
    PullOptions { platform: None, ownership: ownership() }
}

/// A registry, a client and a store.
pub(crate) struct Setup {
    pub(crate) registry: TestRegistry,
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) directory: TemporaryDirectory,
}

impl Setup {
    pub(crate) fn new(name: &str) -> Self {
        Self::of(name, TestRegistry::start(), options())
    }

    pub(crate) fn of(name: &str, registry: TestRegistry, options: ClientOptions) -> Self {
        let directory = TemporaryDirectory::new(name);
        let store = open(&directory.join("store"));
        Setup { registry, client: Client::new(options), store, directory }
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        self.registry.name(name).parse().unwrap()
    }

    pub(crate) fn pull(&self, name: &str) -> Result<Pulled> {
        pull(&self.store, &self.client, &self.reference(name), &pull_options(), &())
    }

    pub(crate) fn pull_seen(&self, name: &str) -> (Result<Pulled>, Seen) {
        let seen = Seen::default();
        let pulled = pull(&self.store, &self.client, &self.reference(name), &pull_options(), &seen);
        (pulled, seen)
    }

    pub(crate) fn layer(&self, chain: &ChainId) -> PathBuf {
        self.directory.join("store/layers").join(chain.hex())
    }

    /// The names in one of the store's directories.
    pub(crate) fn entries(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.join("store").join(name)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing that a user could see, and nothing half-made.
    pub(crate) fn assert_nothing_visible(&self) {
        for directory in ["images", "names", "staging", "leases"] {
            assert_eq!(self.entries(directory), [""; 0], "{directory}");
        }
    }
}

/// The whole error, as a user would see it.
pub(crate) fn text(error: &Error) -> String {
    error.to_report().to_string()
}

/// Remembers what it hears, but for amounts.
#[derive(Debug, Default)]
pub(crate) struct Seen(pub(crate) Mutex<Vec<String>>);

impl Seen {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(what)).count()
    }
}

impl Observer for Seen {
    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }

    fn step(&self, item: &str, step: &str, amount: Option<Amount>) {
        if amount.is_none() {
            self.0.lock().unwrap().push(format!("{item}: {step}"));
        }
    }
}

/// Runs the test of that name once more in a mount namespace of its own; true inside it.
#[allow(clippy::print_stderr)] // a test that is skipped says why
pub(crate) fn inside(test: &str) -> bool {
    const INSIDE: &str = "RE_TRANSFER_INSIDE";
    if std::env::var_os(INSIDE).is_some_and(|value| value == test) {
        return true;
    }
    if !is_root() {
        eprintln!("skipped {test}: mounting needs root");
        return false;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, test)
        .output()
        .expect("unshare, of util-linux, is needed");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    false
}
