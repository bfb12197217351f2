//! Builds for another kind of machine, whose programs an interpreter runs. It is registered for a user
//! namespace of the test's own: the host's list of interpreters stays as it is.

mod account;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use account::{Account, Done};

/// Waits for its ids, registers the interpreter, and becomes the command behind it.
const SCRIPT: &str = r#"
echo ready
read -r interpreter
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 99
printf %s ":arm64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:$interpreter:F" \
    > /proc/sys/fs/binfmt_misc/register || exit 98
exec "$@" </dev/null
"#;
/// What [`SCRIPT`] ends with where a namespace cannot have interpreters of its own (Linux before 6.7).
const NO_INTERPRETERS: [i32; 2] = [98, 99];
const TEXT: &str = "built on arm64\n";

/// A program of arm64 that writes [`TEXT`] into `/made`, whatever its arguments are.
fn program() -> Vec<u8> {
    const CODE: usize = 14 * 4;
    const HEADERS: usize = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let path = b"/made\0\0\0";
    // adr xN, OFFSET
    let address = |register: u32, offset: usize| 0x1000_0000 | (offset as u32 / 4) << 5 | register;
    let code: [u32; 14] = [
        0x9280_0c60,                            // mov x0, AT_FDCWD
        address(1, CODE - 4),                   // the path
        0xd280_0822,                            // mov x2, O_WRONLY | O_CREAT
        0xd280_3483,                            // mov x3, 0644
        0xd280_0708,                            // openat
        0xd400_0001,                            // svc
        address(1, CODE + path.len() - 24),     // the text
        0xd280_0002 | (TEXT.len() as u32) << 5, // its length
        0xd280_0808,                            // write
        0xd400_0001,
        0xd280_0000, // mov x0, 0
        0xd280_0ba8, // exit
        0xd400_0001,
        0xd503_201f, // nop
    ];
    let size = (HEADERS + CODE + path.len() + TEXT.len()) as u64;
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |out: &mut Vec<u8>, numbers: &[u16]| numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    let word = |out: &mut Vec<u8>, numbers: &[u32]| numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    let long = |out: &mut Vec<u8>, numbers: &[u64]| numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    half(&mut out, &[2, 183]);
    word(&mut out, &[1]);
    long(&mut out, &[BASE + HEADERS as u64, 64, 0]);
    word(&mut out, &[0]);
    half(&mut out, &[64, 56, 1, 0, 0, 0]);
    word(&mut out, &[1, 5]);
    long(&mut out, &[0, BASE, BASE, size, size, 0x1000]);
    word(&mut out, &code);
    out.extend(path);
    out.extend(TEXT.as_bytes());
    out
}

/// The user's program, where programs of arm64 run by `interpreter`.
fn run(user: &Account, interpreter: &str, args: &[&str]) -> Done {
    let inner = user.command(args);
    let mut command = Command::new("unshare");
    command.args(["--user", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(&user.home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("unshare");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), "0 0 4294967295").unwrap();
    }
    writeln!(child.stdin.take().unwrap(), "{interpreter}").unwrap();
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: said,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn privileged_commands_for_another_machine_run_by_its_interpreter() {
    let interpreter = ["/usr/bin/qemu-aarch64-static", "/usr/bin/qemu-aarch64"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok());
    let Some(interpreter) = interpreter else {
        println!("skipped: qemu-user-static is not installed");
        return;
    };
    if cfg!(target_arch = "aarch64") {
        println!("skipped: this machine is arm64 itself");
        return;
    }
    let Some(user) = Account::new() else { return };
    let tried = run(&user, interpreter, &["version"]);
    if NO_INTERPRETERS.contains(&tried.code) {
        println!("skipped: a user namespace has no binfmt_misc of its own here: {}", tried.err.trim());
        return;
    }
    tried.ok();

    let context = user.home.join("context");
    fs::create_dir_all(&context).unwrap();
    let text = "FROM scratch\nARG TARGETARCH\nCOPY for-$TARGETARCH /busybox\n\
                RUN [\"/busybox\", \"touch\", \"/made\"]\nCMD [\"/busybox\", \"true\"]\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    fs::write(context.join("for-arm64"), program()).unwrap();
    let host = run(&user, interpreter, &["image", "inspect", "-f", "{{.Architecture}}", "busybox"]).ok();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::metadata(path).is_ok());
    fs::copy(busybox.unwrap(), context.join(format!("for-{host}"))).unwrap();
    fs::set_permissions(context.join("for-arm64"), fs::Permissions::from_mode(0o755)).unwrap();

    // Without an interpreter it is said, and nothing is tried.
    let words = ["build", "--platform", "linux/arm64", "-t", "foreign", "context"];
    let done = user.run(&words);
    assert!(done.code == 1 && done.err.contains("no interpreter for `arm64`"), "{}", done.err);
    run(&user, interpreter, &words).ok();
    run(&user, interpreter, &["run", "--rm", "--network", "none", "--platform", "linux/arm64", "foreign"])
        .ok();

    let both = format!("linux/{host},linux/arm64");
    let outputs = ["-o", "files", "-o", "type=oci,dest=both.tar"];
    let words =
        [&["build", "--no-cache", "--progress", "plain", "--platform", &both][..], &outputs, &["context"]];
    let done = run(&user, interpreter, &words.concat());
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(fs::read_to_string(user.home.join("files/linux_arm64/made")).unwrap(), TEXT);
    assert_eq!(fs::read_to_string(user.home.join(format!("files/linux_{host}/made"))).unwrap(), "");
    // Each has its report of space; nothing is kept here that another command could show.
    for platform in both.split(',') {
        assert!(done.err.contains(&format!(" of this Dockerfile for {platform}:\n")), "{}", done.err);
    }
    let list =
        Command::new("tar").arg("-xOf").arg(user.home.join("both.tar")).arg("index.json").output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("image.index"));
    user.await_nobody();
}
