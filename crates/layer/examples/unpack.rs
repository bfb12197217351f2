//! Measures unpacking and assembling: `unpack LAYER EMPTY_DIRECTORY [single-id]` (LAYER may be
//! compressed; `single-id` is for a user namespace).
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use robot_env_diag::{IoContext, Result};
use robot_env_layer::{ApplyOptions, Decoder, Overlay, Ownership, apply, assemble};
use robot_env_oci::{Algorithm, Hasher};

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or(0))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(layer), Some(root)) = (arguments.next(), arguments.next()) else {
        return Err(robot_env_diag::Error::invalid("usage: unpack LAYER EMPTY_DIRECTORY"));
    };
    let options = match arguments.next() {
        Some(_) => ApplyOptions {
            ownership: Ownership::SingleId,
            xattr_namespace: Overlay::User,
            ..ApplyOptions::default()
        },
        None => ApplyOptions::default(),
    };
    let tar = Decoder::new(File::open(&layer).io_context(|| format!("cannot open {}", layer.display()))?)?;
    let root = File::open(&root).io_context(|| format!("cannot open {}", root.display()))?;
    let recipe_path = std::env::temp_dir().join(format!("recipe.{}", std::process::id()));
    let recipe = File::options().create_new(true).read(true).write(true).open(&recipe_path);
    let recipe = recipe.io_context(|| format!("cannot make {}", recipe_path.display()))?;
    std::fs::remove_file(&recipe_path).io_context(|| "cannot unlink".to_owned())?;

    let (wall, used) = (Instant::now(), cpu());
    let mut out = BufWriter::new(&recipe);
    let applied = apply(tar, root.as_fd(), &mut out, &options)?;
    out.flush().io_context(|| "cannot write the recipe".to_owned())?;
    drop(out);
    let Some(diff_id) = applied.diff_id else { unreachable!("it is hashed by default") };
    let (wall, used) = (wall.elapsed(), cpu().saturating_sub(used));
    println!(
        "unpack: {} entries, {} bytes of tar, {} of recipe: {:.3} s, {:.3} s of CPU, {:.1} us of CPU an entry, {}",
        applied.entries,
        applied.tar_size,
        recipe.metadata().map_or(0, |m| m.len()),
        wall.as_secs_f64(),
        used.as_secs_f64(),
        used.as_secs_f64() * 1e6 / applied.entries as f64,
        diff_id,
    );
    println!("implied: {}, skipped: {:?}", applied.implied.len(), applied.skipped);

    let (wall, used) = (Instant::now(), cpu());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    assemble(&recipe, root.as_fd(), &mut hasher)?;
    println!(
        "assemble: {:.3} s, {:.3} s of CPU",
        wall.elapsed().as_secs_f64(),
        cpu().saturating_sub(used).as_secs_f64()
    );
    let digest = hasher.finish();
    if digest != *diff_id.digest() {
        return Err(robot_env_diag::Error::invalid(format!("the assembled tar has the digest {digest}")));
    }
    Ok(())
}
