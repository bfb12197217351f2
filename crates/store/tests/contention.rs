//! Threads and processes that pull, name, use, remove and collect at once.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind};
use robot_env_store::{CollectOptions, FsckOptions, RemoveOptions, SnapshotKey, SnapshotOptions, Store};
use support::{Sample, Temporary, entries, layers, open, reference};

const ROOT: &str = "RE_STORE_CONTENTION_ROOT";
const WORKER: &str = "RE_STORE_CONTENTION_WORKER";

fn samples() -> Vec<Sample> {
    vec![
        Sample::new(&["base", "a"]),
        Sample::new(&["base", "b"]),
        Sample::new(&["base", "a", "c"]),
        Sample::new(&["d"]),
    ]
}

/// Somebody else may have removed it; anything else is a failure.
fn gone(error: &Error, doing: &str) {
    assert_eq!(error.kind(), Kind::NotFound, "{doing}: {error:?}");
}

/// A worker's life; gives how many times it did each thing.
fn work(store: &Store, worker: u64, time: Duration) -> [usize; 8] {
    let samples = samples();
    let started = Instant::now();
    let mut random = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut done = [0; 8];
    let mut n = 0;
    while started.elapsed() < time {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let sample = &samples[(random >> 8) as usize % samples.len()];
        let name = format!("robot:{}", (random >> 16) % 3);
        let choice = random as usize % 8;
        match choice {
            // A pull must never lose a layer to a collector, nor its image before that has its name.
            0 | 1 => {
                sample.pull(store, Some(&name)).unwrap();
            }
            2 => {
                if let Err(error) = store.untag(&reference(&name)) {
                    gone(&error, "untag");
                }
            }
            3 => {
                if let Err(error) = store.remove_image(&sample.id(), RemoveOptions { names: true }) {
                    gone(&error, "remove");
                }
            }
            4 => match store.resolve(&name) {
                Ok(image) => {
                    n += 1;
                    let key: SnapshotKey = format!("w{worker}-{n}").parse().unwrap();
                    match store.prepare(&key, image.chain(), SnapshotOptions::default()) {
                        Ok(snapshot) => {
                            let top = snapshot.lowers.first().expect("every sample has layers");
                            robot_env_sys::fs::read_bounded(top, "file", 100).unwrap();
                            std::thread::sleep(Duration::from_millis(random >> 61));
                            // Nobody took it away meanwhile.
                            robot_env_sys::fs::read_bounded(top, "file", 100).unwrap();
                            assert!(store.snapshot(&key).unwrap().is_some());
                            assert!(store.remove_snapshot(&key).unwrap());
                        }
                        Err(error) => gone(&error, "prepare"),
                    }
                }
                Err(error) => gone(&error, "resolve"),
            },
            5 => assert_eq!(store.collect(&CollectOptions::default()).unwrap().damage, []),
            6 => {
                store.empty_trash(Some(Duration::from_millis(50))).unwrap();
            }
            _ => {
                store.images().unwrap();
                store.names().unwrap();
            }
        }
        done[choice] += 1;
    }
    done
}

fn finish(root: &Path) {
    let store = open(root);
    assert_eq!(store.fsck(FsckOptions::default()).unwrap(), []);
    for id in store.image_ids().unwrap() {
        store.remove_image(&id, RemoveOptions { names: true }).unwrap();
    }
    assert_eq!(store.collect(&CollectOptions::default()).unwrap().damage, []);
    store.empty_trash(None).unwrap();
    assert_eq!(layers(&store), []);
    for dir in ["staging", "snapshots", "leases", "names", "images", "trash", "content/sha256", "damaged"] {
        assert_eq!(entries(&store, dir), [""; 0], "{dir}");
    }
}

#[test]
fn threads_share_a_store() {
    let temporary = Temporary::new("threads");
    let root = temporary.0.join("root");
    let store = open(&root);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=4)
            .map(|n| {
                scope.spawn({
                    let store = &store;
                    move || work(store, n, Duration::from_secs(3))
                })
            })
            .collect();
        for worker in workers {
            let done = worker.join().unwrap();
            assert!(done.iter().sum::<usize>() > 0, "{done:?}");
        }
    });
    drop(store);
    finish(&root);
}

#[test]
#[ignore = "the test of several processes runs it in each of them"]
fn a_worker() {
    if let (Some(root), Ok(worker)) = (std::env::var_os(ROOT), std::env::var(WORKER)) {
        let store = open(Path::new(&root));
        let done = work(&store, worker.parse().unwrap(), Duration::from_secs(3));
        assert!(done.iter().sum::<usize>() > 0, "{done:?}");
    }
}

#[test]
fn processes_share_a_store_and_make_it_together() {
    let temporary = Temporary::new("processes");
    let root = temporary.0.join("root");
    let workers: Vec<_> = (10..14)
        .map(|n| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "a_worker", "--ignored", "--nocapture"]);
            command.env(ROOT, &root).env(WORKER, n.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    finish(&root);
}
