//! An X server that nobody sees.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// An Xvfb that lets nobody in without the cookie in its file. Dropped, it ends.
pub struct XServer {
    child: Child,
    /// For `$DISPLAY`: `:7`.
    pub display: String,
    /// The file, for `$XAUTHORITY`.
    pub cookie: PathBuf,
}

impl XServer {
    /// Starts it with a cookie (32 hexadecimal digits) that it writes to `file`.
    pub fn start(file: &Path, cookie: &str) -> XServer {
        // The entry is for any display: which one it will be the server says.
        let script = format!(
            "for n in $(seq 0 200); do echo add $(hostname)/unix:$n . {cookie}; done | xauth -f {} -q -",
            file.display()
        );
        fs::write(file, "").expect("the cookie's file can be written");
        let made = Command::new("sh").args(["-c", &script]).status().expect("a shell runs");
        assert!(made.success(), "xauth takes the cookie");
        let mut child = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp", "-auth"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("Xvfb says its display");
        assert!(!line.trim().is_empty(), "Xvfb says its display");
        XServer { child, display: format!(":{}", line.trim()), cookie: file.to_owned() }
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        // By SIGTERM it takes its lock and socket away; the child was not waited for, so its number is its own.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
