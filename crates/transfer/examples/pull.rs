//! Pulls an image into a store and says how long it took: `pull STORE NAME`.
#![allow(clippy::print_stdout)] // it is a program

use std::time::Instant;

use robot_env_diag::{Error, Result};
use robot_env_registry::{Client, ClientOptions};
use robot_env_store::{OverlayXattr, Store, StoreOptions};
use robot_env_transfer::{PullOptions, ownership, pull};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(root), Some(name)) = (words.next(), words.next()) else {
        return Err(Error::invalid("usage: pull STORE NAME"));
    };
    let overlay_xattr =
        if rustix::process::geteuid().is_root() { OverlayXattr::Trusted } else { OverlayXattr::User };
    let store = Store::open(&StoreOptions { root: root.into(), overlay_xattr, create: true })?;
    let client = Client::new(ClientOptions::default());
    let started = Instant::now();
    let options = PullOptions { platform: None, ownership: ownership() };
    let pulled = pull(&store, &client, &name.parse()?, &options, &())?;
    println!("{} in {:.3} s", pulled.image, started.elapsed().as_secs_f64());
    Ok(())
}
