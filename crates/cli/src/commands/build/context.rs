//! Where the files of a build come from.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use robot_env_diag::{Context as _, Error, IoContext, Kind, Result};
use robot_env_engine::Engine;
use robot_env_layer::{Decoder, ExtractOptions, ExtractOwner, extract};
use robot_env_registry::Client;

use crate::app::App;
use crate::commands::load::standard_input;

/// The largest Dockerfile that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// A context with its Dockerfile, ready to be read.
pub(super) struct Context {
    pub(super) directory: PathBuf,
    pub(super) dockerfile: String,
    pub(super) file_name: String,
    pub(super) ignore: String,
    /// A directory of our own, removed at the end.
    _temporary: Option<Temporary>,
}

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Temporary {
    fn make(engine: &Engine) -> Result<Temporary> {
        let base = engine.paths().root().join("build/contexts");
        let path = base.join(format!("{}-{}", std::process::id(), rand()?));
        fs::create_dir_all(&path).io_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(Temporary(path))
    }
}

fn rand() -> Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .io_context(|| "getrandom()".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Context {
    pub(super) fn open(
        app: &App,
        engine: &Engine,
        client: &Client,
        source: &str,
        file: Option<&str>,
    ) -> Result<Context> {
        if source == "-" && file == Some("-") {
            return Err(Error::invalid(
                "invalid argument: can't use stdin for both build context and dockerfile",
            ));
        }
        let mut text = None;
        let (directory, temporary) = if source == "-" {
            let mut input = standard_input()?;
            match stream(engine, &mut input)? {
                Streamed::Archive(temporary) => (temporary.0.clone(), Some(temporary)),
                Streamed::Dockerfile(read, temporary) => {
                    text = Some(read);
                    (temporary.0.clone(), Some(temporary))
                }
            }
        } else if let Some((address, part)) = git(source) {
            let temporary = Temporary::make(engine)?;
            let directory = clone(address, part, &temporary.0)?;
            (directory, Some(temporary))
        } else if source.starts_with("http://") || source.starts_with("https://") {
            let mut download = client.download(source)?;
            match stream(engine, &mut download)? {
                Streamed::Archive(temporary) => (temporary.0.clone(), Some(temporary)),
                Streamed::Dockerfile(read, temporary) => {
                    text = Some(read);
                    (temporary.0.clone(), Some(temporary))
                }
            }
        } else {
            let directory = app.ambient().directory.join(source);
            let found =
                fs::metadata(&directory).io_context(|| format!("cannot use `{source}` as a context"))?;
            if !found.is_dir() {
                return Err(Error::invalid(format!(
                    "cannot use `{source}` as a context: it is no directory"
                ))
                .with_hint(format!(
                    "name the directory that holds it, and the Dockerfile by `-f {source}`"
                )));
            }
            (directory, None)
        };
        let local = temporary.is_none();
        let (dockerfile, file_name, own_ignore) = match (text, file) {
            (Some(text), _) => (text, "Dockerfile".to_owned(), None),
            (None, Some("-")) => {
                let mut text = String::new();
                standard_input()?
                    .take(LIMIT)
                    .read_to_string(&mut text)
                    .io_context(|| "cannot read the Dockerfile from standard input".into())?;
                (text, "-".to_owned(), None)
            }
            (None, file) => {
                // Relative to where the user is for a local context, else inside it.
                let path = match file {
                    Some(file) if local => app.ambient().directory.join(file),
                    Some(file) => directory.join(file),
                    None => default_file(&directory),
                };
                let text = read(&path, file.is_none().then_some(&directory))?;
                let beside = format!("{}.dockerignore", path.display());
                let shown = file.map_or_else(|| name_of(&path), str::to_owned);
                (text, shown, fs::read_to_string(beside).ok())
            }
        };
        let ignore = match own_ignore {
            Some(ignore) => ignore,
            None => match fs::read_to_string(directory.join(".dockerignore")) {
                Ok(ignore) => ignore,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(error).io_context(|| "cannot read `.dockerignore`".into()),
            },
        };
        Ok(Context { directory, dockerfile, file_name, ignore, _temporary: temporary })
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// `Dockerfile`, or `dockerfile` where there is only that.
fn default_file(directory: &Path) -> PathBuf {
    let path = directory.join("Dockerfile");
    let lower = directory.join("dockerfile");
    if !path.exists() && lower.exists() { lower } else { path }
}

fn read(path: &Path, default_in: Option<&PathBuf>) -> Result<String> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let out = Error::not_found(format!("cannot read Dockerfile `{shown}`: there is no such file"));
            return Err(if default_in.is_some() {
                out.with_hint("name another one by `-f FILE`")
            } else {
                out
            });
        }
        Err(error) => return Err(error).io_context(|| format!("cannot read Dockerfile `{shown}`")),
    };
    if !found.is_file() {
        return Err(Error::invalid(format!("cannot read Dockerfile `{shown}`: it is no regular file")));
    }
    if found.len() > LIMIT {
        return Err(Error::invalid(format!(
            "cannot read Dockerfile `{shown}`: it has more than {LIMIT} bytes"
        )));
    }
    let bytes = fs::read(path).io_context(|| format!("cannot read Dockerfile `{shown}`"))?;
    String::from_utf8(bytes)
        .context(Kind::InvalidInput, || format!("cannot read Dockerfile `{shown}`: it is no UTF-8"))
}

enum Streamed {
    Archive(Temporary),
    Dockerfile(String, Temporary),
}

/// A tar, plain or compressed, or else a Dockerfile alone.
fn stream(engine: &Engine, input: &mut (dyn Read + Send)) -> Result<Streamed> {
    let temporary = Temporary::make(engine)?;
    let path = temporary.0.with_extension("tar");
    let _gone = Temporary(path.clone());
    let within = || format!("cannot write `{}`", path.display());
    let mut file =
        fs::File::options().read(true).write(true).create_new(true).open(&path).io_context(within)?;
    std::io::copy(input, &mut file).io_context(|| "cannot read the context".into())?;
    let rewind = |file: &mut fs::File| file.seek(SeekFrom::Start(0)).io_context(within).map(drop);
    rewind(&mut file)?;
    let mut start = [0u8; 512];
    let mut filled = 0;
    {
        let mut decoder = Decoder::new(&mut file)?;
        while filled < start.len() {
            match decoder.read(&mut start[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => filled += n,
            }
        }
    }
    rewind(&mut file)?;
    let removed = fs::remove_file(&path);
    if filled == start.len() && &start[257..262] == b"ustar" {
        let root = robot_env_sys::fs::open_directory(&temporary.0)?;
        let how = ExtractOptions { owner: ExtractOwner::Caller, plain: true, ..ExtractOptions::default() };
        extract(Decoder::new(file)?, root.as_fd(), &how)
            .map_err(|error| error.within("cannot unpack the context"))?;
        removed.io_context(within)?;
        return Ok(Streamed::Archive(temporary));
    }
    let mut text = String::new();
    file.take(LIMIT)
        .read_to_string(&mut text)
        .context(Kind::InvalidInput, || "the context is neither a tar nor a Dockerfile".into())?;
    Ok(Streamed::Dockerfile(text, temporary))
}

/// The address of a git repository, and what of it: `REF[:DIRECTORY]` behind `#`.
fn git(source: &str) -> Option<(&str, &str)> {
    let (address, part) = source.split_once('#').unwrap_or((source, ""));
    let is_git = address.starts_with("git@")
        || address.starts_with("git://")
        || address.starts_with("ssh://")
        || address.starts_with("file://")
        || address.starts_with("github.com/")
        || (address.contains("://") && Path::new(address).extension().is_some_and(|end| end == "git"));
    is_git.then_some((address, part))
}

fn clone(address: &str, part: &str, into: &Path) -> Result<PathBuf> {
    let (reference, directory) = part.split_once(':').unwrap_or((part, ""));
    let address =
        if address.starts_with("github.com/") { format!("https://{address}") } else { address.to_owned() };
    let run = |words: &[&str]| -> Result<()> {
        let out = Command::new("git")
            .args(words)
            .current_dir(into)
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                let out = Error::new(Kind::of_io(&error), "cannot run `git`").because(error);
                if missing { out.with_hint("install git") } else { out }
            })?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        Err(Error::new(Kind::Unavailable, format!("cannot fetch the git repository `{address}`: {last}")))
    };
    run(&["init", "-q"])?;
    let wanted = if reference.is_empty() { "HEAD" } else { reference };
    run(&["-c", "protocol.ext.allow=never", "fetch", "-q", "--depth", "1", "--", &address, wanted])?;
    run(&["checkout", "-q", "FETCH_HEAD"])?;
    fs::remove_dir_all(into.join(".git")).io_context(|| "cannot remove `.git`".into())?;
    if directory.is_empty() {
        return Ok(into.to_owned());
    }
    let found = into.join(directory.trim_start_matches('/'));
    let inside = fs::canonicalize(&found)
        .ok()
        .filter(|path| fs::canonicalize(into).is_ok_and(|root| path.starts_with(root)))
        .filter(|path| path.is_dir());
    inside.ok_or_else(|| Error::not_found(format!("the repository has no directory `{directory}`")))
}
